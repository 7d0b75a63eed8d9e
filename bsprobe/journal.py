"""Every finished trial on disk the moment it ends, so that nothing measured is ever lost.

A journal is JSON lines: a header with the schema version, the environment, the device and the
settings, then one trial a line, each flushed to the disk before the next trial starts.
"""

import json
import os
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from bsprobe.consistency import check_figures
from bsprobe.errors import FileError
from bsprobe.files import file_errors
from bsprobe.records import SCHEMA_VERSION, DeviceInfo, Environment, Settings, Trial
from bsprobe.serialization import MalformedError, from_json, parse_json, to_json

if sys.platform != "win32":
    import fcntl

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
    def resume(cls, folder: Path) -> "tuple[Self, Contents] | None":
        """Lock a journal, read it, and drop a last line that was cut off.

        Returns:
            The journal, ready to append to, and what it holds; None where there is none, or none
            that got as far as its header.

        Raises:
            FileError: Another run is writing to it, or it is damaged before its last line.
        """
        path = folder / NAME
        if not path.exists():
            return None
        with file_errors(path):
            journal = cls(path, path.open("r+b"))
        try:
            journal._lock()
            contents = journal._read()
            if contents is None:
                with file_errors(path):
                    path.unlink()  # while it is locked: nobody may begin to write to it now
        except BaseException:
            journal._file.close()
            raise
        if contents is None:
            journal._file.close()
            return None
        return journal, contents

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

    def _read(self) -> Contents | None:
        """What the file holds, leaving it open at the end of its last whole line."""
        with file_errors(self._path):
            contents = _contents(self._path, self._file.read())
            self._file.truncate(0 if contents is None else contents.complete_bytes)
            self._file.seek(0, os.SEEK_END)
        return contents

    def _append(self, value: Any) -> None:
        line = json.dumps(value, allow_nan=False).encode() + b"\n"
        with file_errors(self._path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if sys.platform == "win32":
            return  # two runs into one folder are then not noticed
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another run may have taken an empty journal away.
            is_ours = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            is_ours = False
        if not is_ours:
            raise FileError(
                f"another bsprobe run is writing to {self._path.parent}",
                hint="wait for it, or give another --out",
            )


def read_journal(folder: Path) -> Contents:
    """Read a journal without touching it; a last line that was cut off is left out.

    Raises:
        FileError: There is none, or it is damaged before its last line.
    """
    path = folder / NAME
    with file_errors(path):
        contents = _contents(path, path.read_bytes())
    if contents is None:
        raise FileError(f"{path} holds no whole line", hint="nothing was measured yet: run again")
    return contents


def _contents(path: Path, data: bytes) -> Contents | None:
    """What the bytes of a journal say, None without a whole first line."""
    *lines, rest = data.split(b"\n")
    if not lines:
        return None
    values = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    check_version(path, values[0])
    try:
        header = from_json(Header, values[0])
        check_figures(header)
        trials = tuple(
            from_json(Trial, value, place=f"line {number}")
            for number, value in enumerate(values[1:], start=2)
        )
        for number, trial in enumerate(trials, start=2):
            check_figures(trial, place=f"line {number}")
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return Contents(header=header, trials=trials, complete_bytes=len(data) - len(rest))


def check_version(path: Path, value: Any) -> None:
    """Refuse a file that was written by another version of the format.

    Raises:
        FileError: It was.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        found = reprlib.repr(version)
        raise FileError(
            f"{path} has schema version {found}; this bsprobe reads {SCHEMA_VERSION}",
            hint="use the bsprobe that wrote it, or run again",
        )


def damaged(path: Path, what: str) -> FileError:
    """The error for a file that is not what it should be."""
    return FileError(f"{path} is damaged: {what}", hint="restore it from a copy, or run again")


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return parse_json(line)
    except MalformedError as error:
        raise damaged(path, f"line {number}: {error}") from error
