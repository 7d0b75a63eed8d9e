"""Batches that were proven, kept on the disk: a small file for each question that was asked."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsprobe.records.errors import FileError
from bsprobe.records.runs import Settings
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json, to_text
from bsprobe.storage.files import file_errors, write_atomically
from bsprobe.storage.jsonlines import check_version

SCHEMA_VERSION: Final = 3
"""Version 1 may hold a batch whose next one merely died; 2 knows nothing of imported files."""
_LOG = logging.getLogger("bsprobe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that a proven batch depends on, as far as it can be told."""

    device: str
    capacity_bytes: int
    torch: str
    bsprobe: str
    settings: Settings
    sources: tuple[tuple[str, str], ...]
    """Per part of the workload: its name, and a hash of the file that defines it."""

    def path(self, folder: Path) -> Path:
        """The file of the answer."""
        text = json.dumps(to_json(self), sort_keys=True)
        return folder / f"batch-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBatch:
    """The answer."""

    schema_version: int = SCHEMA_VERSION
    question: Question
    batch: int
    first_failure: int | None
    """None where no larger batch was to be tried."""
    files: tuple[tuple[str, str], ...]
    """The files of the user's own that the trials imported: paths, and hashes of what they held."""
    found_at: str
    """ISO 8601, UTC."""


def find_batch(folder: Path, question: Question) -> ProvenBatch | None:
    """The answer that is kept, None where there is none; a damaged file is warned of."""
    path = question.path(folder)
    try:
        value = parse_json(path.read_bytes())
        check_version(path, value, SCHEMA_VERSION)
        found = from_json(ProvenBatch, value)
        check_figures(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning("%s: %s; the batch is found anew", path, error.strerror or error)
        return None
    except (MalformedError, FileError):
        _LOG.warning("%s is damaged or of another version; the batch is found anew", path)
        return None
    changed = [name for name, content in found.files if file_hash(Path(name)) != content]
    if changed:
        _LOG.info("%s has changed; the batch is found anew", ", ".join(changed))
        return None
    return found if found.question == question else None


def file_hash(path: Path) -> str:
    """A hash of a file's content, empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def keep_batch(folder: Path, found: ProvenBatch) -> None:
    """Write an answer down; a disk that does not take it is warned of."""
    path = found.question.path(folder)
    try:
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_text(found))
    except FileError as error:
        _LOG.warning("the batch is not kept for the next time: %s", error)
