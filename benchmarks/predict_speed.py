"""How long a prediction takes, from the start of the process: seconds, and memory of the worker.

Runs the command line as a user would, with cuDNN's answers not yet on the disk and again with them:
the default matrix for one card, and every card of the catalogue. Run it from a checkout:

    python benchmarks/predict_speed.py
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkout import python_path

COMMANDS = {
    "default matrix, one card (goal: 20 s)": ("run", "--gpu", "RTX 3090"),
    "default matrix, all cards (goal: 60 s)": ("gpus", "--fit"),
}


def seconds(arguments: tuple[str, ...], cache: Path) -> float:
    """Run one command of bsprobe in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bsprobe", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": python_path(), "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    print(f"{os.cpu_count()} cores")
    print(f"{'':<40}{'cold':>8}{'warm':>8}")
    for name, arguments in COMMANDS.items():
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (seconds(arguments, Path(cache)) for _ in range(2))
        print(f"{name:<40}{cold:>7.1f}s{warm:>7.1f}s")
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest process: {peak_gib:.2f} GiB (goal: 2 GiB)")


if __name__ == "__main__":
    main()
