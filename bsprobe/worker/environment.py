"""Where and by what a run is made."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bsprobe._version import __version__
from bsprobe.records.runs import Environment
from bsprobe.worker.protocol import Ready


def describe_environment(ready: Ready, command: str) -> Environment:
    """The environment of a run, from the worker's first words and the machine.

    Args:
        ready: What the worker said of its torch.
        command: The command line, for the reader to type again.
    """
    return Environment(
        bsprobe=__version__,
        commit=_commit(),
        command=command,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        platform=platform.platform(),
        torch=ready.torch,
        torchvision=installed_version("torchvision"),
        cuda=ready.cuda,
        cudnn=ready.cudnn,
        # PyTorch is renaming the variable; whichever is set is the one it read.
        cuda_alloc_conf=os.environ.get("PYTORCH_ALLOC_CONF")
        or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
        cpu_threads=ready.cpu_threads,
    )


def installed_version(package: str) -> str | None:
    """The version of a package, told without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, or None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
