"""The file of a finished study, `study.json`."""

from pathlib import Path

from bsprobe.records.errors import FileError
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_text
from bsprobe.storage.files import file_errors, read_file, write_atomically
from bsprobe.storage.folders import STUDIES, STUDY, STUDY_JOURNAL, resuming
from bsprobe.storage.jsonlines import check_version, damaged
from bsprobe.study.checks import check_study
from bsprobe.study.records import SCHEMA_VERSION, Study


def save_study(study: Study, folder: Path) -> Path:
    """Write `study.json` into a folder and return its path.

    Raises:
        FileError: The file cannot be written.
    """
    path = folder / STUDY
    write_atomically(path, to_text(study))
    return path


def load_study(folder: Path) -> Study:
    """Read a study from its folder.

    Raises:
        FileError: There is no study, or it is unfinished, damaged, or of another version.
    """
    path = folder / STUDY
    with file_errors(path):
        if not path.exists() and (folder / STUDY_JOURNAL).exists():
            raise FileError(
                f"the study in {folder} is not finished",
                hint=f"finish it: {resuming(folder, STUDIES)}",
            )
    data = read_file(path)
    try:
        value = parse_json(data)
        check_version(path, value, SCHEMA_VERSION)
        study = from_json(Study, value)
        check_study(study)
    except MalformedError as error:
        raise damaged(path, str(error)) from error
    return study
