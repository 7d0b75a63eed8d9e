"""Every finished trial on disk the moment it ends, so that nothing measured is ever lost.

A journal is JSON lines: a header with the schema version, the environment, the device and the
settings, then one trial a line, each flushed to the disk before the next trial starts.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from bsprobe.errors import FileError
from bsprobe.files import file_errors
from bsprobe.records import SCHEMA_VERSION, DeviceInfo, Environment, Settings, Trial
from bsprobe.serialization import MalformedError, from_json, to_json

try:
    import fcntl
except ImportError:  # Windows: two runs into one folder are then not noticed
    fcntl = None  # type: ignore[assignment] # the platform decides

NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a journal."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a journal holds."""

    header: Header
    trials: tuple[Trial, ...]
    complete_bytes: int
    """Length of the whole lines; what follows was cut off while it was written."""


class Journal:
    """An open journal, locked against a second run and appended to."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @classmethod
    def create(cls, folder: Path, header: Header) -> Self:
        """Begin a journal in an existing folder.

        Raises:
            FileError: There is one already, or the disk does not take it.
        """
        path = folder / NAME
        with file_errors(path):
            file = path.open("xb")
        journal = cls(path, file)
        journal._lock()
        journal._append(to_json(header))
        return journal

    @classmethod
    def reopen(cls, folder: Path, contents: Contents) -> Self:
        """Go on with a journal that was read before, dropping a line that was cut off."""
        path = folder / NAME
        with file_errors(path):
            file = path.open("r+b")
            journal = cls(path, file)
            journal._lock()
            file.truncate(contents.complete_bytes)
            file.seek(0, os.SEEK_END)
        return journal

    def append(self, trial: Trial) -> None:
        """Write a finished trial and wait until the disk has it.

        Raises:
            FileError: The disk is full or gone; what was written before is intact.
        """
        self._append(to_json(trial))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with file_errors(self._path):  # closing writes again what a full disk has refused
            self._file.close()

    def _append(self, value: Any) -> None:
        line = json.dumps(value, allow_nan=False).encode() + b"\n"
        with file_errors(self._path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(
                f"another bsprobe run is writing to {self._path.parent}",
                hint="wait for it, or give another --out",
            ) from None


def has_content(folder: Path) -> bool:
    """Whether a journal with at least its header is in a folder; one cut off earlier is removed."""
    path = folder / NAME
    if not path.exists():
        return False
    with file_errors(path):
        if b"\n" in path.read_bytes():
            return True
        path.unlink()
    return False


def read_journal(folder: Path) -> Contents:
    """Read a journal; a last line that was cut off by a crash is left out.

    Raises:
        FileError: There is none, or it is damaged before its last line.
    """
    path = folder / NAME
    with file_errors(path):
        data = path.read_bytes()
    *lines, rest = data.split(b"\n")
    if not lines:
        raise FileError(
            f"{path} holds no whole line", hint="nothing was measured yet: start without --resume"
        )
    values = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    check_version(path, values[0])
    try:
        header = from_json(Header, values[0])
        trials = tuple(
            from_json(Trial, value, place=f"line {number}")
            for number, value in enumerate(values[1:], start=2)
        )
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return Contents(header=header, trials=trials, complete_bytes=len(data) - len(rest))


def check_version(path: Path, value: Any) -> None:
    """Refuse a file that was written by another version of the format.

    Raises:
        FileError: It was.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise FileError(
            f"{path} has schema version {version!r}; this bsprobe reads {SCHEMA_VERSION}",
            hint="use the bsprobe that wrote it, or run again",
        )


def damaged(path: Path, what: str) -> FileError:
    """The error for a file that is not what it should be."""
    return FileError(f"{path} is damaged: {what}", hint="restore it from a copy, or run again")


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"line {number} is not JSON") from error
