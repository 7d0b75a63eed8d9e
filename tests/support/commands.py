"""Programs as users start them, over the package of this checkout."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.checkout import ROOT, python_path

__all__ = ["ROOT", "bsprobe", "python", "python_path"]


def python(
    *arguments: object,
    timeout: float,
    cwd: Path | str | None = None,
    text: str = "",
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """`python ARGUMENTS`, with a text on standard input."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        input=text,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def bsprobe(
    *arguments: object, timeout: float, cwd: Path | str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`bsprobe ARGUMENTS`."""
    return python("-m", "bsprobe", *arguments, timeout=timeout, cwd=cwd, **environment)
