"""Environments with the versions of a recording, for `judge.py`."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.truth_records import Machine, release_of
from bsprobe.records.errors import BsprobeError
from bsprobe.simulate.cudnn.convolutions import version_text
from bsprobe.storage.files import file_errors

_COMPLETE: Final = "complete"
"""A file that marks an environment as completely installed."""
_PROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
_FACTS: Final = (
    "-c",
    "import torch; print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version())",
)
_MINOR: Final = ("-c", "import sys; print(*sys.version_info[:2], sep='.')")
_LAST_WORDS: Final = 400


class InstallationError(BsprobeError):
    """An environment cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The versions that an environment must have."""

    python: str
    """The minor version, such as 3.12."""
    torch: str
    """The release, such as 2.11.0."""
    torchvision: str | None
    cudnn: str | None
    """In cuDNN's own numbering: 91900 is 9.19.0."""

    @property
    def folder_name(self) -> str:
        """Return the name of the environment's folder."""
        return re.sub(r"[^\w.-]", "_", f".venv-judge-{self.torch}-{self.cudnn or 'none'}")


def wanted_by(machine: Machine) -> Wanted:
    """Return the versions that a machine's recordings require."""
    environment = machine.environment
    torchvision = environment.torchvision
    return Wanted(
        python=".".join(environment.python.split(".")[:2]),
        torch=release_of(environment.torch),
        torchvision=None if torchvision is None else release_of(torchvision),
        cudnn=environment.cudnn,
    )


def prepare(wanted: Wanted, parent: Path) -> Path:
    """Make an environment unless it exists; return the path of its Python.

    An environment without the completion mark is made again.

    Args:
        wanted: The versions to install.
        parent: The folder that holds the environments.

    Raises:
        InstallationError: There is no network, or a version is not available.
    """
    folder = parent / wanted.folder_name
    python = folder / "bin" / "python"
    if (folder / _COMPLETE).exists() and _said(python, *_FACTS):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    base = _interpreter(wanted.python)
    print(f"Making {folder}; the download may be several gigabytes.", flush=True)
    if _said("uv", "--version"):
        _run(["uv", "venv", "--python", base, str(folder)])
        install = ["uv", "pip", "install", "--python", str(python)]
    else:
        _run([base, "-m", "venv", str(folder)])
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    _run([*install, *requirements(wanted)])
    _install_cudnn(wanted, python, install)
    with file_errors(folder):
        (folder / _COMPLETE).touch()
    return python


def requirements(wanted: Wanted) -> list[str]:
    """Return the packages that bsprobe requires, with the recorded PyTorch and torchvision."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    pins = {"torch": wanted.torch, "torchvision": wanted.torchvision}
    found = []
    for text in project["dependencies"]:
        name = re.split(r"[<>=!~; \[]", text)[0]
        pin = pins.get(name)
        found.append(text if pin is None else f"{name}=={pin}")
    return found


def _install_cudnn(wanted: Wanted, python: Path, install: Sequence[str]) -> None:
    """Install the recorded cuDNN if this PyTorch comes with another one.

    PyTorch does not start with a cuDNN older than the one it was compiled against
    (torch/backends/cudnn/__init__.py); in that case its own version is reinstalled.
    """
    facts = _said(python, *_FACTS)
    if not facts:
        raise InstallationError(
            f"PyTorch {wanted.torch} is installed in {python.parents[1]} and does not start",
            hint=f"{python} -c 'import torch'",
        )
    _, cuda, own = facts.split()
    if own == wanted.cudnn or wanted.cudnn is None or not (wanted.cudnn + own).isdecimal():
        return
    package = f"nvidia-cudnn-cu{cuda.partition('.')[0]}"
    try:
        _run([*install, f"{package}=={version_text(int(wanted.cudnn))}.*"])
    except InstallationError as error:
        print(f"note: {error}", flush=True)
        return
    if not _said(python, *_FACTS):
        print(
            f"note: PyTorch {wanted.torch} does not start with the recorded cuDNN "
            f"{version_text(int(wanted.cudnn))}: it keeps {version_text(int(own))}",
            flush=True,
        )
        _run([*install, f"{package}=={version_text(int(own))}.*"])


def _interpreter(minor: str) -> str:
    """Return a Python of this minor version on PATH, or the running one."""
    for name in (f"python{minor}", "python3", "python"):
        path = shutil.which(name)
        if path is not None and _said(path, *_MINOR) == minor:
            return path
    here = ".".join(map(str, sys.version_info[:2]))
    if here != minor:
        print(f"note: there is no Python {minor} on PATH; using {here}", flush=True)
    return sys.executable


def _said(*command: str | Path) -> str:
    """Return the output of a command, or empty text if it is missing or fails."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallationError(f"{command[0]} does not start: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise InstallationError(
            f"the environment cannot be made: {' '.join(command[:3])} ended with "
            f"{done.returncode}: {said[-_LAST_WORDS:]}",
            hint="check the network and run it again; downloads are kept",
        )
