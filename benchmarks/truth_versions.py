"""The versions that a prediction depends on: the recorded and the installed ones.

    PYTHONPATH=. python benchmarks/truth_versions.py FOLDER

Prints the versions of this environment that differ from those that a GPU's folder was recorded
with, or nothing if they are equal.

PyTorch decides the allocations of a step, cuDNN its workspaces: for compute capability 9.0 the
first workspace of 205 of 568 convolutions differs between cuDNN 9.26 and 9.19. Requests are
therefore compared only if both versions are equal.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks.script_errors import exit_from
from benchmarks.truth_prediction import capability_of
from benchmarks.truth_records import Machine, load_machine, release_of
from bsprobe.records.errors import FileError
from bsprobe.simulate.cudnn.convolutions import version_text
from bsprobe.simulate.cudnn.workspace import Workspaces

JUDGE: Final = "bash benchmarks/judge.sh"
"""Command that makes an environment with the recorded versions and compares there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """PyTorch and cuDNN."""

    torch: str
    """The release without its local part: 2.11.0 for 2.11.0+cu130."""
    cudnn: str | None
    """Such as "9.19.0"; None if there is no cuDNN."""

    def __str__(self) -> str:
        return f"PyTorch {self.torch}, {self._cudnn_words}"

    def difference_to(self, recorded: "Versions") -> str | None:
        """Describe the differences to the recorded versions, or return None if there are none."""
        parts = []
        if self.torch != recorded.torch:
            parts.append(f"PyTorch {self.torch} instead of {recorded.torch}")
        if self.cudnn != recorded.cudnn:
            parts.append(f"{self._cudnn_words} instead of {recorded.cudnn or 'none'}")
        return " and ".join(parts) or None

    @property
    def _cudnn_words(self) -> str:
        return f"cuDNN {self.cudnn}" if self.cudnn else "no cuDNN"


def recorded_versions(machine: Machine) -> Versions:
    """Return the versions that a machine was recorded with."""
    cudnn = machine.environment.cudnn
    return Versions(
        torch=release_of(machine.environment.torch),
        cudnn=version_text(int(cudnn)) if cudnn and cudnn.isdecimal() else cudnn,
    )


def versions_here(machine: Machine) -> Versions:
    """Return the installed versions that predict for a machine's card, with the cuDNN in use."""
    return Versions(
        torch=release_of(torch.__version__), cudnn=Workspaces(capability_of(machine)).cudnn_version
    )


def version_difference(machine: Machine) -> str | None:
    """Describe how the installed versions differ from a machine's; None if they do not."""
    return versions_here(machine).difference_to(recorded_versions(machine))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the difference, if any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    machine = load_machine(folder)
    if machine is None:
        raise FileError(f"{folder} has no machine.json", hint="give the folder of one GPU")
    found = version_difference(machine)
    if found is not None:
        print(found)


if __name__ == "__main__":
    exit_from(main)
