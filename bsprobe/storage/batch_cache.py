"""Cache of proven batches: one small file per question."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsprobe.records.errors import FileError
from bsprobe.records.printable import single_line
from bsprobe.records.runs import Settings
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json, to_text
from bsprobe.storage.files import (
    MOST_BYTES,
    file_errors,
    open_regular,
    read_limited,
    remove_partial_files,
    write_atomically,
)
from bsprobe.storage.jsonlines import check_version

SCHEMA_VERSION: Final = 3
"""In version 1 the first failure may be an unexplained death; version 2 has no imported files."""
_LOG = logging.getLogger("bsprobe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything known that a proven batch depends on: the key of the cache."""

    device: str
    capacity_bytes: int
    torch: str
    bsprobe: str
    settings: Settings
    sources: tuple[tuple[str, str], ...]
    """Per part of the workload: its name, and a hash of the file that defines it."""

    def path(self, folder: Path) -> Path:
        """Return the path of the cached batch in a folder."""
        text = json.dumps(to_json(self), sort_keys=True)
        return folder / f"batch-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBatch:
    """A proven batch: the content of a cache file."""

    schema_version: int = SCHEMA_VERSION
    question: Question
    batch: int
    first_failure: int | None
    """None if the search ended at the maximum batch."""
    files: tuple[tuple[str, str], ...]
    """The user's files that the trials imported: paths and hashes of the contents."""
    found_at: str
    """ISO 8601, UTC."""

    def __post_init__(self) -> None:
        """Check that the batches follow each other, and the settings.

        Raises:
            ValueError: They do not.
        """
        settings = self.question.settings
        following = self.batch + settings.batch_multiple
        if self.batch > settings.max_batch:
            raise ValueError(f"the batch exceeds the largest one, {settings.max_batch}")
        if self.first_failure is None:
            if following <= settings.max_batch:
                raise ValueError("no batch failed, but larger ones are allowed")
        elif self.first_failure != following:
            raise ValueError(f"the first failure must be {following}")


def find_batch(folder: Path, question: Question) -> ProvenBatch | None:
    """Return the cached batch for a question.

    None if there is none, or if its file is damaged (which is logged) or one of the imported files
    has changed.
    """
    path = question.path(folder)
    try:
        value = parse_json(read_limited(path))
        check_version(path, value, SCHEMA_VERSION)
        found = from_json(ProvenBatch, value)
        check_figures(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = error.strerror or error
        _LOG.warning("%s: %s; searching the batch again", single_line(str(path)), what)
        return None
    except (MalformedError, FileError):
        what = "is damaged or has another version"
        _LOG.warning("%s %s; searching the batch again", single_line(str(path)), what)
        return None
    changed = [name for name, content in found.files if file_hash(Path(name)) != content]
    if changed:
        _LOG.info("%s has changed; searching the batch again", single_line(", ".join(changed)))
        return None
    return found if found.question == question else None


def file_hash(path: Path) -> str:
    """Return a hash of a file's content, or an empty text if the file cannot be read.

    A large file is told by its size and the time of its last change.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size > MOST_BYTES:
                return f"{status.st_size}-{status.st_mtime_ns}"
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, FileError, ValueError):  # ValueError: no name of a file
        return ""


def keep_batch(folder: Path, found: ProvenBatch) -> None:
    """Write a proven batch to the cache; log a warning if that fails."""
    path = found.question.path(folder)
    try:
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder)  # also those of other questions
        write_atomically(path, to_text(found))
    except FileError as error:
        _LOG.warning("cannot cache the batch: %s", single_line(str(error)))
