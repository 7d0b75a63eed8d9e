"""Texts as they were agreed, in files beside the tests; and files that must always be the same.

After a change that is meant: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import os
from collections.abc import Callable
from pathlib import Path


def check(tests: str, name: str, text: str, *, columns: int | None = None) -> None:
    """Hold a text against the file in `golden` beside a file of tests, or write it there.

    It is written where that is asked for; `columns` is how many a line may have.
    """
    file = Path(tests).parent / "golden" / name
    if os.environ.get("BSPROBE_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if columns and len(line) > columns] == []


def written_twice(write: Callable[[Path], object], folder: Path) -> dict[str, bytes]:
    """The files that are written, by name; they are the same when they are written again."""
    found = []
    for name in ("once", "again"):
        (folder / name).mkdir()
        write(folder / name)
        found.append({path.name: path.read_bytes() for path in sorted((folder / name).iterdir())})
    assert found[0] == found[1]
    return found[0]
