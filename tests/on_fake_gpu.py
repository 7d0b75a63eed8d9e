"""Programs on the fake GPU: processes of their own, with the folder `fake_gpu` on their path."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAKE = ROOT / "tests" / "fake_gpu" / "site"


def environment(folder: Path, *, faults: str = "", **more: str) -> dict[str, str]:
    """The variables of a process that has the fake GPU.

    Args:
        folder: Where the trials of all processes are counted.
        faults: What is to go wrong, as `fake_trials` says.
        more: Other variables.
    """
    variables = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return {
        **variables,
        "PYTHONPATH": os.pathsep.join(map(str, (FAKE, ROOT, ROOT / "benchmarks"))),
        "FAKE_GPU_FOLDER": str(folder),
        "FAKE_GPU_FAULTS": faults,
        **more,
    }


def python(
    *arguments: object, folder: Path, faults: str = "", timeout: float = 300, **more: str
) -> "subprocess.CompletedProcess[str]":
    """`python ARGUMENTS` on the fake GPU, in a folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(folder, faults=faults, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def answer(program: str, *, folder: Path, faults: str = "") -> Any:
    """What a program prints last, as JSON."""
    done = python("-c", program, folder=folder, faults=faults)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
