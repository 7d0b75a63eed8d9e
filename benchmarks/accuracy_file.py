"""Accuracy figures as a file, predicted in one environment and reported in another."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.accuracy_figures import Accuracy, CheckedTrial
from bsprobe.records.errors import FileError
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_text
from bsprobe.storage.files import file_errors, write_atomically

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema_version: int
    found: Accuracy


def save(found: Accuracy, path: Path) -> None:
    """Write the figures that a report needs, without positions in the history and differences.

    Raises:
        FileError: The file cannot be written.
    """
    kept = replace(found, trials=tuple(map(_without_history, found.trials)))
    write_atomically(path, to_text(_Document(schema_version=SCHEMA_VERSION, found=kept)))


def load(path: Path) -> Accuracy:
    """Read a file written by `save`.

    Raises:
        FileError: The file cannot be read, is damaged, or has another version.
    """
    with file_errors(path):
        data = path.read_bytes()
    try:
        document = from_json(_Document, parse_json(data))
    except MalformedError as error:
        raise FileError(f"{path} is damaged: {error}", hint="write it again: --save") from error
    if document.schema_version != SCHEMA_VERSION:
        raise FileError(f"{path} has version {document.schema_version}, not {SCHEMA_VERSION}")
    return document.found


def _without_history(checked: CheckedTrial) -> CheckedTrial:
    requests = checked.requests
    return replace(
        checked,
        trial=replace(checked.trial, marks=(), places=(), place_of=()),
        requests=None if requests is None else replace(requests, differences=()),
    )
