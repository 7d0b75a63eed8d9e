"""The file of a finished run: everything, versioned."""

import json
from pathlib import Path

from bsprobe.consistency import check_run
from bsprobe.errors import FileError
from bsprobe.files import file_errors, write_atomically
from bsprobe.journal import NAME as JOURNAL_NAME
from bsprobe.jsonlines import check_version, damaged
from bsprobe.records import SCHEMA_VERSION, Run
from bsprobe.serialization import MalformedError, from_json, parse_json, to_json

NAME = "run.json"


def save_run(run: Run, folder: Path) -> Path:
    """Write `run.json` into a folder and return its path.

    Raises:
        FileError: The disk does not take it.
    """
    path = folder / NAME
    text = json.dumps(to_json(run), indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
    return path


def load_run(path: Path) -> Run:
    """Read a run from its folder or its file.

    Raises:
        FileError: There is none, it is unfinished, damaged, or of another version.
    """
    with file_errors(path):
        if path.is_dir():
            if not (path / NAME).exists() and (path / JOURNAL_NAME).exists():
                raise FileError(
                    f"the run in {path} is not finished",
                    hint=f"finish it: bsprobe run --resume --out {path}",
                )
            path = path / NAME
        data = path.read_bytes()
    try:
        value = parse_json(data)
        check_version(path, value, SCHEMA_VERSION)
        run = from_json(Run, value)
        check_run(run)
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return run
