"""The folders and the environment of one run of a command."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.scripts import ACCUMULATION_VARIABLE, BATCH_VARIABLE, TRIAL_VARIABLE
from bsprobe.records.trials import TrialSpec
from bsprobe.worker.spawning import WORKER_ENVIRONMENT

INSIDE: Final = Path(__file__).with_name("inside")
"""The folder with `sitecustomize`, which Python runs at its start."""
RECORDS_VARIABLE: Final = "BSPROBE_RECORDS"
_PREFIX: Final = "bsprobe-trial-"


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one run of a command."""

    root: Path

    @property
    def out(self) -> Path:
        """The scratch folder of the script."""
        return self.root / "out"

    @property
    def records(self) -> Path:
        """The folder of the records that its processes write."""
        return self.root / "records"

    @property
    def temporary(self) -> Path:
        """Its `TMPDIR`."""
        return self.root / "tmp"

    @property
    def log(self) -> Path:
        """Its output."""
        return self.root / "output.log"

    @property
    def mark(self) -> str:
        """The text in the environment of all its processes and of no others."""
        return f"{RECORDS_VARIABLE}={self.records}"

    @classmethod
    def new(cls) -> Self:
        """Create the folders; their name has the ID of this process."""
        place = cls(Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")))
        for folder in (place.out, place.records, place.temporary):
            folder.mkdir()
        return place


def remove_leftovers() -> None:
    """Remove the folders of trials whose bsprobe was killed; they may hold checkpoints."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):
            is_ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if is_ours and pid.isdecimal() and not Path("/proc", pid).exists():
                shutil.rmtree(folder, ignore_errors=True)


def environment_of(
    spec: TrialSpec,
    device: DeviceInfo,
    place: Place,
    base: Mapping[str, str],
    *,
    outside_bytes: int | None,
    gpu: str | None,
) -> dict[str, str]:
    """Return all variables of a command.

    Args:
        spec: The trial.
        device: Its device.
        place: Its folders.
        base: The environment of bsprobe.
        outside_bytes: Memory of a GPU outside PyTorch's allocator, or None if not known.
        gpu: The value of `CUDA_VISIBLE_DEVICES`; None to leave it.
    """
    paths = [str(INSIDE), base.get("PYTHONPATH", "")]
    variables = {
        **base,
        BATCH_VARIABLE: str(spec.batch_size),
        ACCUMULATION_VARIABLE: str(spec.accumulation_steps),
        TRIAL_VARIABLE: "1",
        RECORDS_VARIABLE: str(place.records),
        "BSPROBE_WARMUP": str(spec.warmup_steps),
        "BSPROBE_STEPS": str(spec.warmup_steps + spec.measured_steps),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TMPDIR": str(place.temporary),
        "WANDB_MODE": "offline",
    }
    if gpu is not None:
        variables["CUDA_VISIBLE_DEVICES"] = gpu
    if device.kind is DeviceKind.CPU:
        variables |= WORKER_ENVIRONMENT
        variables["BSPROBE_LIMIT"] = str(device.capacity_bytes)
        variables["BSPROBE_LIMIT_KIND"] = "cpu"
    elif device.limit_bytes is not None:
        variables["BSPROBE_LIMIT"] = str(device.limit_bytes)
        variables["BSPROBE_LIMIT_KIND"] = "cuda"
        variables["BSPROBE_OUTSIDE"] = str(outside_bytes or 0)
        variables["BSPROBE_TOTAL"] = str(device.total_bytes)
    return variables
