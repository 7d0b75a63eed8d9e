"""Texts as they were agreed, in files beside the tests.

After a change that is meant: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import os
from pathlib import Path


def check(file: Path, text: str) -> None:
    """Hold a text against its file, or write it there where that is asked for."""
    if os.environ.get("BSPROBE_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
