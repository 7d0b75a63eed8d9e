"""Files: written whole or not at all, and complaints of the operating system in one clear line."""

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bsprobe.records.errors import FileError

_LONGEST_NAME = 255
"""Bytes in a name: NAME_MAX of Linux and macOS."""
_MARK_BYTES = 37
"""Bytes that `partial_name` adds at most: two dots, ten digits, a hyphen, sixteen digits, a word of
eight."""
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>[1-9]\d{0,8})-[0-9a-f]{16}\.partial", re.DOTALL)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, then give it its name.

    Raises:
        FileError: The disk is full, the folder is read-only …; an older file is left as it was.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """As `write_atomically`, for content that is written piece by piece.

    Yields:
        The file under its temporary name; it gets its real one if nothing was raised.
    """
    with file_errors(path), written_whole(path) as file:
        yield file


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, for callers with a better hint for what the operating system says.

    A link to a file is kept, and the file is replaced. What killed processes left of the file is
    removed.

    Raises:
        FileError: Something else than a file is in the way; it is left as it was.
        OSError: The disk is full, the folder is read-only …; an older file is left as it was.
    """
    require_regular_file(path)
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    remove_partial_files(target.parent, target.name)
    temporary = target.with_name(partial_name(target.name, os.getpid()))
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def require_regular_file(path: Path) -> None:
    """Refuse what exists at a path and is neither a regular file nor a link to one.

    A rename puts a file in the place of a device, a pipe or a socket; reading a pipe never ends.

    Raises:
        FileError: Such a thing is there.
    """
    with file_errors(path), suppress(FileNotFoundError):
        path.lstat()
        if not path.is_file():
            is_link = ", and neither is what it links to" if path.is_symlink() else ""
            raise FileError(
                f"{path} is not a regular file{is_link}",
                hint="name another place, or move away what is there",
            )


def partial_name(name: str, process: int) -> str:
    """A new name for a file that a process is writing: `.run.json.4711-0123456789abcdef.partial`.

    Args:
        name: The name that the file gets in the end; a long one is shortened.
        process: The number of the process.
    """
    return f".{_shortened(name)}.{process}-{secrets.token_hex(8)}.partial"


def remove_partial_files(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of files that they were writing.

    Files of living processes are left alone, and so is what cannot be removed.

    Args:
        folder: The folder of the files.
        name: The name that such a file would have got; None: any.
    """
    wanted = None if name is None else _shortened(name)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _PARTIAL.fullmatch(entry.name)
            if match is None or wanted not in (None, match["name"]):
                continue
            if not _is_alive(int(match["process"])):
                Path(entry).unlink(missing_ok=True)


def _shortened(name: str) -> str:
    """The beginning of a name that leaves room for what `partial_name` adds."""
    while len(os.fsencode(name)) > _LONGEST_NAME - _MARK_BYTES:
        name = name[:-1]
    return name


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # there, signal 0 would interrupt it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into a `FileError`."""
    try:
        yield
    except FileExistsError as error:
        raise FileError(
            f"{path} exists already", hint="add --resume to go on with it, or give another --out"
        ) from error
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist", hint="is this the folder of a run?") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileError(f"{path}: {error.strerror}", hint="give a shorter name") from error
        raise FileError(
            f"{path}: {error.strerror or error}",
            hint="free the disk or its permissions; what was measured before is kept, and a run "
            "goes on with --resume",
        ) from error


def cache_folder() -> Path:
    """The user's cache folder, by the XDG base directory specification."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "bsprobe"
