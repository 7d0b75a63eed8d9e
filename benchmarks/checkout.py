"""This checkout, and what a process needs in its environment to import the package from it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """A PYTHONPATH: this checkout, then what the variable holds already.

    What a caller has put there stays, such as a `sitecustomize`.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, (str(ROOT), *inherited))))


def run_bsprobe(*arguments: str, folder: str, **environment: str) -> None:
    """Run a command of bsprobe in a folder, whatever it prints; it must succeed."""
    subprocess.run(
        [sys.executable, "-m", "bsprobe", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
