"""Tables of published memory measurements; data/published/README.md lists their sources."""

import csv
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parent / "data" / "published"


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a published table."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
