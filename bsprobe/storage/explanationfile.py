"""The versioned JSON file of an explanation."""

import json
from pathlib import Path

from bsprobe.records.explanations import EXPLANATION_VERSION, ExplanationReport
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json
from bsprobe.storage.explanation_checks import check_explanation
from bsprobe.storage.files import file_errors, read_file, write_atomically
from bsprobe.storage.jsonlines import check_version, damaged

NAME = "explanation.json"


def save_explanation(report: ExplanationReport, folder: Path) -> None:
    """Write `explanation.json` into a folder.

    Raises:
        FileError: The file cannot be written.
    """
    text = json.dumps(to_json(report), allow_nan=False) + "\n"
    write_atomically(folder / NAME, text.encode())


def is_explanation(path: Path) -> bool:
    """Return whether a path is `explanation.json` or a folder with that file."""
    try:
        return path.name == NAME or (path / NAME).is_file()
    except OSError:  # the name is too long
        return False


def load_explanation(path: Path) -> ExplanationReport:
    """Read an explanation from its folder or its file.

    Raises:
        FileError: The file is missing, damaged or of another version.
    """
    with file_errors(path):
        if path.is_dir():
            path = path / NAME
    data = read_file(path)
    try:
        value = parse_json(data)
        check_version(path, value, EXPLANATION_VERSION)
        report = from_json(ExplanationReport, value)
        check_explanation(report)
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return report
