"""Bounded reading and atomic writing of files; system errors become `FileError`."""

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from bsprobe.records.errors import FileError
from bsprobe.records.units import MIB, format_bytes

if sys.platform != "win32":
    import fcntl

MOST_BYTES = 64 * MIB
"""The largest file that is read. The largest that was ever written has less than 1 MiB."""
_READ_ONLY_FILES = "give the path of a file; the output of a command must be written to one first"
_NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags of opening a file to read it: the first for Unix, the second for Windows."""
_LONGEST_NAME = 255
"""NAME_MAX of Linux and macOS, in bytes."""
_MARK_BYTES = 37
"""The most bytes that `partial_name` adds: two dots, ten digits, a hyphen, sixteen digits and
`.partial`."""
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>[1-9]\d{0,8})-[0-9a-f]{16}\.partial", re.DOTALL)


def read_file(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a regular file of limited size.

    Reading a pipe may block forever, and a device such as /dev/zero never ends.

    Raises:
        FileError: The path is missing, not readable, not a regular file, or too large.
    """
    with file_errors(path):
        return read_limited(path, most_bytes=most_bytes)


def read_limited(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file as `read_file`, but leave system errors to the caller.

    Raises:
        FileError: The path is not a regular file, or the file is too large.
        OSError: The file is missing or not readable.
    """
    with open_regular(path) as file:
        return read_open(file, path, most_bytes=most_bytes)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read it.

    Raises:
        FileError: The path is not a regular file.
        OSError: The file is missing or not readable.
    """
    # Opened only if it is regular, because opening a device may have an effect; a pipe that takes
    # its place in between does not block.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)
    return os.fdopen(os.open(path, os.O_RDONLY | _NOT_BLOCKING), "rb")


def read_open(file: BinaryIO, path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Read an open file from its place to its end.

    Args:
        file: The file, regular when it was opened.
        path: Its path, for messages.
        most_bytes: The largest size.

    Raises:
        FileError: The file is not regular, or too large.
    """
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise _not_regular(path)
    data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise FileError(
            f"{path} is larger than {format_bytes(most_bytes)}",
            hint="is it the right file? bsprobe writes none of this size",
        )
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it.

    Raises:
        FileError: The file cannot be written (full disk, read-only folder); an older file is kept.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically, as `write_atomically`, in several parts.

    Yields:
        The file under its temporary name; it is renamed if nothing is raised.
    """
    with file_errors(path), written_whole(path) as file:
        yield file


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically, as `replacing`, but leave system errors to the caller.

    A link to a file is kept, and its target is replaced. Partial files of killed processes are
    removed.

    Yields:
        The file under its temporary name; it is renamed if nothing is raised.

    Raises:
        FileError: The path exists and is not a regular file; it is left unchanged.
        OSError: The file cannot be written (full disk, read-only folder); an older file is kept.
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
    """Check that a path is a regular file, a link to one, or does not exist.

    A rename would replace a device, a pipe or a socket, and reading a pipe may block.

    Raises:
        FileError: The path exists and is not a regular file.
    """
    with file_errors(path), suppress(FileNotFoundError):
        path.lstat()
        if not path.is_file():
            raise _not_regular(path, "give another path, or move the existing one away")


def _not_regular(path: Path, hint: str = _READ_ONLY_FILES) -> FileError:
    is_link = ", and neither is what it links to" if path.is_symlink() else ""
    return FileError(f"{path} is not a regular file{is_link}", hint=hint)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes; the lock ends with this process.

    Returns:
        False if another process holds the lock; True otherwise, also where nothing can be locked
        (Windows, some network file systems).
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def in_use(folder: Path) -> FileError:
    """Make the error for a folder that another process writes to."""
    return FileError(
        f"another bsprobe command is writing to {folder}",
        hint="wait for it, or give another --out",
    )


def partial_name(name: str, process: int) -> str:
    """Make a temporary name for a file: `.run.json.4711-0123456789abcdef.partial`.

    Args:
        name: The final name of the file; a long one is shortened.
        process: The ID of the writing process.
    """
    return f".{_shortened(name)}.{process}-{secrets.token_hex(8)}.partial"


def remove_partial_files(folder: Path, name: str | None = None) -> None:
    """Remove partial files of processes that no longer exist; errors are ignored.

    Args:
        folder: The folder of the files.
        name: The final name of the files; None for any name.
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
    """Shorten a name to leave room for the bytes that `partial_name` adds."""
    while len(os.fsencode(name)) > _LONGEST_NAME - _MARK_BYTES:
        name = name[:-1]
    return name


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # on Windows, signal 0 would interrupt the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a process of another user
    return True


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Convert the OSError of a file operation to a `FileError`."""
    try:
        yield
    except FileExistsError as error:
        raise FileError(
            f"{path} already exists", hint="add --resume to continue it, or give another --out"
        ) from error
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist", hint="is this the folder of a run?") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileError(f"{path}: {error.strerror}", hint="give a shorter name") from error
        raise FileError(
            f"{path}: {error.strerror or error}",
            hint="check the disk space and the permissions; finished trials are kept, and "
            "bsprobe run --resume continues the run",
        ) from error


def cache_folder() -> Path:
    """Return bsprobe's cache folder, by the XDG base directory specification."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    # The specification requires relative paths to be ignored.
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "bsprobe"
