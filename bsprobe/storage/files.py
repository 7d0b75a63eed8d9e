"""Files: written whole or not at all, and complaints of the operating system in one clear line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bsprobe.records.errors import FileError


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

    Raises:
        OSError: The disk is full, the folder is read-only …; an older file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
