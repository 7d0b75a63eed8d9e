"""The versioned JSON file of a finished run."""

import dataclasses
from pathlib import Path
from typing import Any

from bsprobe.records.errors import FileError
from bsprobe.records.printable import shell_word
from bsprobe.records.runs import SCHEMA_VERSION, Run
from bsprobe.storage.checks import check_run
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_text
from bsprobe.storage.explanationfile import is_explanation
from bsprobe.storage.files import file_errors, read_file, write_atomically
from bsprobe.storage.journal import NAME as JOURNAL_NAME
from bsprobe.storage.jsonlines import check_version, damaged

NAME = "run.json"


def save_run(run: Run, folder: Path) -> Path:
    """Write `run.json` into a folder and return its path.

    Raises:
        FileError: The file cannot be written.
    """
    path = folder / NAME
    write_atomically(path, to_text(run))
    return path


def load_run(path: Path) -> Run:
    """Read a run from its folder or its file.

    Raises:
        FileError: The run is missing or unfinished, or the file is damaged, of another version or
            not a run.
    """
    with file_errors(path):
        if path.is_dir():
            if not (path / NAME).exists():
                raise _no_run_in(path)
            path = path / NAME
    data = read_file(path)
    try:
        value = _parsed(path, data)
        _require_run(path, value)
        check_version(path, value, SCHEMA_VERSION)
        run = from_json(Run, value)
        check_run(run)
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return run


def _parsed(path: Path, data: bytes) -> Any:
    """Parse the JSON of a file; a bad file is damaged only if its suffix is `.json`."""
    try:
        return parse_json(data)
    except MalformedError:
        if path.suffix == ".json":
            raise
        folder = path.parent
        hint = f"give the folder of a run, or its {NAME}"
        if (folder / NAME).exists():
            hint = f"give its folder, {_quoted(folder)}, or {_quoted(folder / NAME)}"
        elif (folder / JOURNAL_NAME).exists():
            hint = _finishing(folder)
        raise FileError(f"{path} is not the file of a run: it is not JSON", hint=hint) from None


def _quoted(path: Path) -> str:
    return shell_word(str(path))


def _finishing(folder: Path) -> str:
    return f"finish it: bsprobe run --resume --out {_quoted(folder)}"


def _no_run_in(folder: Path) -> FileError:
    """Make the error for a folder without `run.json`."""
    if (folder / JOURNAL_NAME).exists():
        return FileError(
            f"the run in {folder} is not finished",
            hint=_finishing(folder),
        )
    hint = "is this the folder of a run?"
    if is_explanation(folder):
        hint = f"it holds an explanation; render it alone: bsprobe report {_quoted(folder)}"
    elif any(folder.glob(f"*/{NAME}")):
        hint = f"it contains folders of runs; give {_quoted(folder)}/*/{NAME}"
    return FileError(f"there is no {NAME} in {folder}", hint=hint)


def _require_run(path: Path, value: Any) -> None:
    """Refuse a JSON file of another kind, such as a study or an explanation."""
    known = {field.name for field in dataclasses.fields(Run)}
    if (
        isinstance(value, dict)
        and value.keys() - known
        and value.keys().isdisjoint({"trials", "results"})
    ):
        raise FileError(f"{path} is not the file of a run", hint=f"bsprobe run writes {NAME}")
