"""cuDNN's answers kept on the disk: one file for each cuDNN version and compute capability."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bsprobe.records.errors import FileError
from bsprobe.storage.files import file_errors, write_atomically

SCHEMA_VERSION: Final = 2
"""It also grows when the same question has another answer (2: slices.py)."""
MOST_ANSWERS: Final = 10_000
"""Answers that a file keeps, some 3 MiB; the oldest go first."""

Answers = dict[str, tuple[int, ...]]


class WorkspaceCache:
    """A file of answers, read once and written when told to.

    Two processes may use one file: each adds what it learnt to what is there when it writes. Of two
    that write at the same moment one is lost, which costs asking again.

    Attributes:
        notes: What went wrong with the file, for the user; the answers do not depend on it.
    """

    def __init__(self, path: Path, *, described: Mapping[str, Any]) -> None:
        """Open the cache.

        Args:
            path: The file; it and its folder may be missing.
            described: What was asked about besides the keys, such as the card's description; a file
                with another one is left unread and replaced.
        """
        self.notes: tuple[str, ...] = ()
        self._path = path
        self._header = {"schema_version": SCHEMA_VERSION, "described": dict(described)}
        self._new: Answers = {}
        self._known = self._read()

    def find(self, key: str) -> tuple[int, ...] | None:
        """The answer under a key, or None."""
        return self._known.get(key)

    def add(self, key: str, answer: tuple[int, ...]) -> None:
        """Keep an answer; it is on the disk after `save`."""
        self._known[key] = self._new[key] = answer

    def save(self) -> None:
        """Write what is new, if anything is; a file that cannot be written becomes a note."""
        if not self._new:
            return
        merged = self._read() | self._new
        answers = dict(list(merged.items())[-MOST_ANSWERS:])
        text = json.dumps({**self._header, "answers": answers}, separators=(",", ":"))
        try:
            with file_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, text.encode())
        except FileError as error:
            self._note(f"cuDNN's answers are not kept for the next run: {error}.")
        self._new.clear()

    def _read(self) -> Answers:
        try:
            data = json.loads(self._path.read_bytes())
            if {key: data[key] for key in self._header} != self._header:
                return {}
            return {_text(key): _sizes(answer) for key, answer in data["answers"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(f"cuDNN's answers of earlier runs: {self._path}: {error.strerror}.")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._note(f"{self._path} was damaged; cuDNN is asked anew.")
        return {}

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes = (*self.notes, sentence)


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(key)
    return key


def _sizes(answer: object) -> tuple[int, ...]:
    if not isinstance(answer, list) or not all(type(size) is int and size >= 0 for size in answer):
        raise ValueError(answer)
    return tuple(answer)
