"""The tables of memory that others measured; data/published/README.md says where they come from."""

import csv
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parent / "data" / "published"


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a published table."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
