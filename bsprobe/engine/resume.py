"""Lookup of an interrupted run."""

from pathlib import Path

from bsprobe.records.errors import UsageError
from bsprobe.records.printable import shell_word
from bsprobe.storage import runfile
from bsprobe.storage.folders import REPORT, RUNS, begun
from bsprobe.storage.journal import Contents, Journal


def begun_run(folder: Path | None) -> tuple[Path, Journal, Contents]:
    """Find an unfinished run and open its journal.

    A run in which a variant has failed, or whose report is not written, counts as unfinished.

    Args:
        folder: The folder of the run. None takes the newest unfinished run below `REPORTS`.

    Returns:
        The folder, the open journal and its contents.

    Raises:
        UsageError: The folder holds no run, or a finished one.
        FileError: Another run is writing to the journal, or it is damaged.
    """
    found, (journal, contents) = begun(folder, RUNS, Journal.resume, _require_unfinished)
    return found, journal, contents


def _require_unfinished(folder: Path) -> None:
    """Raise UsageError for a run without failed variants whose report is written."""
    run = runfile.load_run(folder)
    if (folder / REPORT).exists() and not any(result.boundary.has_failed for result in run.results):
        raise UsageError(
            f"--resume: the run in {folder} is finished",
            hint=f"bsprobe report {shell_word(str(folder))} shows it again; for a new run give "
            "another --out",
        )
