"""Reports on fake GPUs: marked as such, and kept out of the repository's own reports."""

from pathlib import Path
from typing import Final

from bsprobe.records.errors import UsageError

REPORTS: Final = Path(__file__).parents[1] / "reports"
FAKE_TITLE: Final = "FAKE, nothing measured"
"""What the title of everything that comes from a fake GPU begins with."""


def check_folder(out: Path) -> None:
    """Refuse to write what a fake GPU did into the repository's reports.

    Raises:
        UsageError: The folder is `reports`, or lies in it.
    """
    if out.resolve().is_relative_to(REPORTS.resolve()):
        raise UsageError(
            f"a fake GPU was recorded, and {out} is for what real ones did",
            hint="give another --out",
        )
