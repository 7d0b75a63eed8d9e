"""Figures of the accuracy as a file: predicted in one environment, reported on in another."""

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
    """Write what a report needs: neither where in a history what happened, nor each difference.

    Raises:
        FileError: The disk does not take it.
    """
    kept = replace(found, trials=tuple(map(_without_history, found.trials)))
    write_atomically(path, to_text(_Document(schema_version=SCHEMA_VERSION, found=kept)))


def load(path: Path) -> Accuracy:
    """Read what `save` wrote.

    Raises:
        FileError: The file cannot be read, is damaged, or of another version.
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
