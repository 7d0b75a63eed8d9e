"""JSON lines that are on the disk before anyone relies on them: what all journals have in common.

The first line is a header with a schema version, each further one an entry. A last line that was
cut off while it was written is left out when the file is read, and written over when it goes on.
"""

import json
import os
import reprlib
import sys
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeVar

from bsprobe.records.errors import FileError
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json
from bsprobe.storage.files import file_errors, require_regular_file

if sys.platform != "win32":
    import fcntl


class HasLength(Protocol):
    """The part of a journal's contents that describes its file."""

    @property
    def complete_bytes(self) -> int:
        """Length of the whole lines; what follows was cut off while it was written."""


class Check(Protocol):
    """Refuses a record that cannot be; `consistency.check_figures`."""

    def __call__(self, record: Any, *, place: str = ...) -> None:
        """Raise MalformedError, or do nothing."""


Header = TypeVar("Header")
Entry = TypeVar("Entry")
Contents = TypeVar("Contents", bound=HasLength)


class JsonLines(Generic[Header, Entry, Contents]):
    """An open file of lines, locked against a second run and appended to."""

    NAME: str
    """Of the file in the folder of a run."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    @classmethod
    def parse(cls, path: Path, data: bytes) -> Contents | None:
        """The contents of a file's bytes, None without a whole first line.

        Raises:
            FileError: They are damaged before the last line, or of another version.
        """
        raise NotImplementedError

    @classmethod
    def create(cls, folder: Path, header: Header) -> Self:
        """Begin a journal in an existing folder.

        Raises:
            FileError: There is one already, or the disk does not take it.
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
        """Lock a journal, read it, and drop a last line that was cut off.

        Returns:
            The journal, ready to append to, and what it holds; None where there is none, or none
            that got as far as its header.

        Raises:
            FileError: Another run is writing to it, or it is damaged before its last line.
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
                    path.unlink()  # while it is locked: nobody may begin to write to it now
        except BaseException:
            journal._file.close()
            raise
        if contents is None:
            journal._file.close()
            return None
        return journal, contents

    @classmethod
    def read(cls, folder: Path) -> Contents:
        """Read a journal without touching it; a last line that was cut off is left out.

        Raises:
            FileError: There is none, or it is damaged before its last line.
        """
        path = folder / cls.NAME
        require_regular_file(path)
        with file_errors(path):
            contents = cls.parse(path, path.read_bytes())
        if contents is None:
            raise FileError(
                f"{path} holds no whole line", hint="nothing was measured yet: run again"
            )
        return contents

    def append(self, entry: Entry) -> None:
        """Write an entry and wait until the disk has it.

        Raises:
            FileError: The disk is full or gone; what was written before is intact.
        """
        self._append(to_json(entry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with file_errors(self._path):  # closing writes again what a full disk has refused
            self._file.close()

    def _read(self) -> Contents | None:
        """The contents of the file, which stays open at the end of its last whole line."""
        with file_errors(self._path):
            contents = self.parse(self._path, self._file.read())
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


def parse_lines(
    path: Path,
    data: bytes,
    *,
    header: type[Header],
    entry: type[Entry],
    version: int,
    check: Check | None = None,
) -> tuple[Header, tuple[Entry, ...], int] | None:
    """The header, the entries and the length of the whole lines; None without a whole header.

    Args:
        path: For the messages.
        data: The bytes of the file.
        header: What the first line is.
        entry: What all others are.
        version: The schema version that is known.
        check: Looks at each line's record, and raises MalformedError where it cannot be.

    Raises:
        FileError: A whole line is damaged, or the file is of another version.
    """
    *lines, rest = data.split(b"\n")
    if not lines:
        return None
    values = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    check_version(path, values[0], version)
    try:
        first = from_json(header, values[0])
        entries = tuple(
            from_json(entry, value, place=f"line {number}")
            for number, value in enumerate(values[1:], start=2)
        )
        if check is not None:
            check(first)
            for number, each in enumerate(entries, start=2):
                check(each, place=f"line {number}")
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return first, entries, len(data) - len(rest)


def check_version(path: Path, value: Any, known: int) -> None:
    """Refuse a file that was written by another version of the format.

    Raises:
        FileError: It was.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != known:
        found = reprlib.repr(version)
        raise FileError(
            f"{path} has schema version {found}; this bsprobe reads {known}",
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
