"""Golden texts in files beside the tests, and checks that outputs are reproducible.

After an intended change: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import os
from collections.abc import Callable
from pathlib import Path


def check(tests: str, name: str, text: str, *, columns: int | None = None) -> None:
    """Compare a text with the file in `golden` beside a test file, or write the file if requested.

    Args:
        tests: The test file, for `golden` beside it.
        name: The name of the golden file.
        text: The text.
        columns: The longest line allowed, in characters; None for any.
    """
    file = Path(tests).parent / "golden" / name
    if os.environ.get("BSPROBE_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if columns and len(line) > columns] == []


def written_twice(write: Callable[[Path], object], folder: Path) -> dict[str, bytes]:
    """Write files twice, check that they are equal, and return them by name."""
    found = []
    for name in ("once", "again"):
        (folder / name).mkdir()
        write(folder / name)
        found.append({path.name: path.read_bytes() for path in sorted((folder / name).iterdir())})
    assert found[0] == found[1]
    return found[0]
