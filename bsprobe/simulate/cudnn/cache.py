"""Disk cache of cuDNN's workspaces: one file per cuDNN version and compute capability."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bsprobe.records.bounds import Bounds
from bsprobe.records.errors import FileError
from bsprobe.storage.codec import parse_json
from bsprobe.storage.files import file_errors, read_limited, remove_partial_files, write_atomically

SCHEMA_VERSION: Final = 2
"""It also grows when the same question has another answer (2: slices.py)."""
MOST_ANSWERS: Final = 10_000
"""Maximum number of answers in a file (about 3 MiB); the oldest are dropped."""

_WORKSPACE = Bounds(least=0, most=2**50)
"""In bytes; no card has a PiB."""
Answers = dict[str, tuple[int, ...]]
"""Workspaces of a convolution's plans, in bytes, by key."""


class WorkspaceCache:
    """A file of answers, read when opened and written by `save`.

    Several processes can use one file: `save` adds new answers to the file's current content. If
    two processes save at the same moment, the answers of one are lost and queried again later.

    Attributes:
        notes: Problems with the file, as sentences for the user. They do not affect the answers.
    """

    def __init__(self, path: Path, *, described: Mapping[str, Any]) -> None:
        """Open the cache.

        Args:
            path: The file; it and its folder may be missing.
            described: Context of the answers, such as the card's description. A file with another
                context is ignored and replaced.
        """
        self.notes: tuple[str, ...] = ()
        self._path = path
        self._header = {"schema_version": SCHEMA_VERSION, "described": dict(described)}
        self._new: Answers = {}
        self._known = self._read()

    def find(self, key: str) -> tuple[int, ...] | None:
        """Return the answer for a key, or None."""
        return self._known.get(key)

    def add(self, key: str, answer: tuple[int, ...]) -> None:
        """Add an answer; `save` writes it to the disk."""
        self._known[key] = self._new[key] = answer

    def save(self) -> None:
        """Write new answers, if there are any; a failure to write becomes a note."""
        if not self._new:
            return
        merged = self._read() | self._new
        answers = dict(list(merged.items())[-MOST_ANSWERS:])
        text = json.dumps({**self._header, "answers": answers}, separators=(",", ":"))
        try:
            with file_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            remove_partial_files(self._path.parent)  # also those of other cards
            write_atomically(self._path, text.encode())
        except FileError as error:
            self._note(f"cuDNN workspaces are not cached for the next run: {error}.")
        self._new.clear()

    def _read(self) -> Answers:
        try:
            data = parse_json(read_limited(self._path))
            if {key: data[key] for key in self._header} != self._header:
                return {}
            return {_text(key): _sizes(answer) for key, answer in data["answers"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(f"cached cuDNN workspaces are not readable: {self._path}: {error.strerror}.")
        except FileError as error:
            self._note(f"cached cuDNN workspaces are not readable: {error}.")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._note(f"{self._path} is damaged: its cuDNN workspaces are computed again.")
        return {}

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes = (*self.notes, sentence)


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(key)
    return key


def _sizes(answer: object) -> tuple[int, ...]:
    if not isinstance(answer, list):
        raise TypeError(answer)
    if not all(type(size) is int and size in _WORKSPACE for size in answer):
        raise ValueError(answer)
    return tuple(answer)
