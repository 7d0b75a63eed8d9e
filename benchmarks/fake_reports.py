"""Rules for reports on fake GPUs: they are marked and kept out of the repository's reports."""

from pathlib import Path
from typing import Final

from bsprobe.records.errors import UsageError

REPORTS: Final = Path(__file__).parents[1] / "reports"
FAKE_TITLE: Final = "FAKE, nothing measured"
"""Start of the title of everything recorded on a fake GPU."""


def check_folder(out: Path) -> None:
    """Refuse to write results of a fake GPU into the repository's reports.

    Raises:
        UsageError: The folder is `reports` or inside it.
    """
    if out.resolve().is_relative_to(REPORTS.resolve()):
        raise UsageError(
            f"results of a fake GPU cannot be written to {out}",
            hint="give an --out outside it",
        )
