"""Description of the machine, the packages and the command of a run."""

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
    """Describe the environment of a run.

    Args:
        ready: The first answer of the worker, with the versions that it loaded.
        command: The command line that reproduces the run.
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
        cuda_alloc_conf=alloc_conf(),
        cpu_threads=ready.cpu_threads,
    )


def alloc_conf() -> str | None:
    """Return the settings of PyTorch's CUDA allocator; None without any.

    PyTorch is renaming the variable and reads either name.
    """
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")


def installed_version(package: str) -> str | None:
    """Return the version of a package without importing it, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of this checkout, or None for an installed package."""
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
