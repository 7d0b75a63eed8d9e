"""Journals of JSON lines, each flushed to disk.

The first line is a header with a schema version, each further line an entry. A last line that was
truncated by a crash is ignored when the file is read, and overwritten when the work is resumed.
"""

import json
import os
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeVar

from bsprobe.records.errors import FileError
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json
from bsprobe.storage.files import (
    file_errors,
    in_use,
    read_file,
    read_open,
    require_regular_file,
    try_lock,
)

_BEGINNING = b'{"schema_version": '
"""The beginning of each header."""


class HasLength(Protocol):
    """The common interface of the contents of journals."""

    @property
    def complete_bytes(self) -> int:
        """The length of the complete lines; the rest is a truncated line."""


Header = TypeVar("Header")
Entry = TypeVar("Entry")
Contents = TypeVar("Contents", bound=HasLength)


class JsonLines(Generic[Header, Entry, Contents]):
    """An open journal, locked against other processes."""

    NAME: str
    """The file name in a folder of results."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @classmethod
    def parse(cls, path: Path, data: bytes) -> Contents | None:
        """Parse the bytes of a journal; None without a complete header.

        Raises:
            FileError: A complete line is damaged, or the journal has another version.
        """
        raise NotImplementedError

    @classmethod
    def create(cls, folder: Path, header: Header) -> Self:
        """Create a journal in an existing folder.

        Raises:
            FileError: The journal exists or cannot be written.
        """
        path = folder / cls.NAME
        require_regular_file(path)
        with file_errors(path):
            file = path.open("xb")
        journal = cls(path, file)
        journal._lock()
        journal._append(to_json(header))
        return journal

    @classmethod
    def resume(cls, folder: Path) -> "tuple[Self, Contents] | None":
        """Lock and read a journal, and drop a truncated last line.

        Returns:
            The journal, ready to append to, and its contents; None if there is no journal, or if
            it had no complete header and was removed.

        Raises:
            FileError: Another process is writing to the journal, or a complete line is damaged.
        """
        path = folder / cls.NAME
        require_regular_file(path)
        if not path.exists():
            return None
        with file_errors(path):
            journal = cls(path, path.open("r+b"))
        try:
            journal._lock()
            contents = journal._read()
            if contents is None:
                with file_errors(path):
                    path.unlink()  # while locked, so that no other process writes to it
        except BaseException:
            journal._file.close()
            raise
        if contents is None:
            journal._file.close()
            return None
        return journal, contents

    @classmethod
    def read(cls, folder: Path) -> Contents:
        """Read a journal without changing it; a truncated last line is ignored.

        Raises:
            FileError: The journal is missing, has no complete header, or a complete line is
                damaged.
        """
        path = folder / cls.NAME
        contents = cls.parse(path, read_file(path))
        if contents is None:
            raise FileError(
                f"{path} has no complete header", hint="nothing was measured yet: run again"
            )
        return contents

    def append(self, entry: Entry) -> None:
        """Write an entry and flush it to disk.

        Raises:
            FileError: The entry cannot be written; earlier entries are intact.
        """
        self._append(to_json(entry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with file_errors(self._path):  # closing retries a write that a full disk has refused
            self._file.close()

    def _read(self) -> Contents | None:
        """Read the file and drop a truncated last line."""
        with file_errors(self._path):
            data = read_open(self._file, self._path)
            contents = self.parse(self._path, data)
            if contents is None and not _is_begun_header(data):
                raise damaged(self._path, "it does not begin with a header")
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
        # Between opening and locking, another run may have removed an empty journal.
        if not (try_lock(self._file.fileno()) and self._is_in_place()):
            raise in_use(self._path.parent)

    def _is_in_place(self) -> bool:
        """Return whether the path still leads to the open file."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False


def parse_lines(
    path: Path,
    data: bytes,
    *,
    header: type[Header],
    entry: type[Entry],
    version: int,
    check: Callable[[Header, Sequence[Entry], Sequence[str]], None],
) -> tuple[Header, tuple[Entry, ...], int] | None:
    """Parse the bytes of a journal.

    Args:
        path: The path, for messages.
        data: The bytes of the file.
        header: The type of the first line.
        entry: The type of all other lines.
        version: The supported schema version.
        check: A function that raises MalformedError if the header and the entries, whose places in
            the file are its last argument, contradict each other.

    Returns:
        The header, the entries and the length of the complete lines in bytes; None without a
        complete header.

    Raises:
        FileError: A complete line is damaged, or the file has another version.
    """
    *lines, rest = data.split(b"\n")
    if not lines:
        return None
    value = _parse(path, 1, lines[0])
    check_version(path, value, version)
    try:
        first = from_json(header, value)
        places = [f"line {number}" for number in range(2, len(lines) + 1)]
        entries = tuple(  # line by line, so that little of a wrong file is held in memory
            from_json(entry, _parse(path, number, line), place=place)
            for number, (place, line) in enumerate(zip(places, lines[1:], strict=True), start=2)
        )
        check_figures(first)
        for place, each in zip(places, entries, strict=True):
            check_figures(each, place=place)
        check(first, entries, places)
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return first, entries, len(data) - len(rest)


def _is_begun_header(data: bytes) -> bool:
    """Return whether data without a complete line can be the beginning of a header.

    A file of somebody else is neither shortened nor removed.
    """
    return data[: len(_BEGINNING)] == _BEGINNING[: len(data)]


def check_version(path: Path, value: Any, known: int) -> None:
    """Check the schema version of a file.

    Args:
        path: The path, for the message.
        value: The parsed JSON of the file, or of its header.
        known: The supported version.

    Raises:
        FileError: The file has another version, or none.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != known:
        found = reprlib.repr(version)
        raise FileError(
            f"{path} has schema version {found}; this bsprobe reads {known}",
            hint="use the bsprobe that wrote it, or run again",
        )


def damaged(path: Path, what: str) -> FileError:
    """Make the error for a damaged file."""
    return FileError(f"{path} is damaged: {what}", hint="restore it from a copy, or run again")


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return parse_json(line)
    except MalformedError as error:
        raise damaged(path, f"line {number}: {error}") from error
