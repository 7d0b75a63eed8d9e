"""This checkout, and what a process needs in its environment to import the package from it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """A PYTHONPATH: this checkout, then what the variable holds already.

    What a caller has put there stays, such as a `sitecustomize`.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(filter(None, (str(ROOT), *inherited))))
