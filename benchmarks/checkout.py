"""Subprocesses that import bsprobe from this checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """Return a PYTHONPATH with this checkout before the current entries.

    The current entries stay because a caller may have put a `sitecustomize` there.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, (str(ROOT), *inherited))))


def run_bsprobe(*arguments: str, folder: str, **environment: str) -> None:
    """Run a bsprobe command in a folder, without its output; raise if it fails."""
    subprocess.run(
        [sys.executable, "-m", "bsprobe", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
