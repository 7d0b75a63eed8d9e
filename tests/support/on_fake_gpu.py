"""Programs on the fake GPU: separate processes with the folder `fake_gpu` on their path."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.commands import ROOT

FAKE = ROOT / "tests" / "fake_gpu" / "site"


def environment(folder: Path, *, faults: str = "", **more: str) -> dict[str, str]:
    """Return the variables that give a process the fake GPU; its trials are counted in a folder."""
    return {
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": f"{FAKE}{os.pathsep}{commands.python_path()}",
        "FAKE_GPU_FOLDER": str(folder),
        "FAKE_GPU_FAULTS": faults,
        **more,
    }


def python(
    *arguments: object, folder: Path, faults: str = "", timeout: float = 300, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` on the fake GPU, in a folder."""
    variables = environment(folder, faults=faults, **more)
    return commands.python(*arguments, timeout=timeout, cwd=folder, **variables)


def answer(program: str, *, folder: Path, faults: str = "") -> Any:
    """Return the last line that a program prints, parsed as JSON."""
    done = python("-c", program, folder=folder, faults=faults)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
