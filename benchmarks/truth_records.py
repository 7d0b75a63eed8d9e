"""Files below `tests/data/truth`: GPU measurements that predictions are compared with.

    GPU/machine.json                the card, the versions, the memory outside the allocator
    GPU/plans.json.gz               cuDNN's plans and kernels on the card, from `card_plans.py`
    GPU/trials/NAME.json.gz         one trial: its peaks and usually the allocator's history
    GPU/raw/NAME.pickle.gz          PyTorch's snapshots of the first trial that could not be reduced
    GPU/boundaries/NAME/run.json    a finished `bsprobe run` under a memory limit
    GPU/boundaries/NAME/failed.txt  the last output of a run that did not finish
    GPU/unfinished/NAME/            an unfinished `bsprobe run`, to be resumed

One process records many trials and loads their kernels, so the memory outside the allocator grows a
little from trial to trial. Runs and trials of tiers 2 and 3 have separate processes.

A trial's file is an allocator history of format 1 (readable by `benchmarks.validation.history`)
with one more field, `truth`: a `TruthTrial`.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from bsprobe.records.errors import FileError
from bsprobe.records.failures import Outcome
from bsprobe.records.habits import Habits, Outputs
from bsprobe.records.runs import DeviceInfo, Environment, Run
from bsprobe.records.trials import Failure, Measurement, TrialSpec
from bsprobe.storage.codec import MalformedError, from_json, to_json
from bsprobe.storage.files import file_errors, write_atomically
from bsprobe.storage.runfile import load_run

SCHEMA_VERSION = 1
FIRST_HABITS = Habits(outputs=Outputs.DROPPED)
"""Habits of the training loop of recordings that name none."""
ROOT = Path(__file__).parents[1] / "tests" / "data" / "truth"
_TRIALS, _BOUNDARIES = "trials", "boundaries"

T = TypeVar("T", "Machine", "TruthTrial")


class Fakes(StrEnum):
    """Treatment of recordings from a fake GPU."""

    REFUSE = "refuse"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that a folder was recorded on."""

    schema_version: int
    device: DeviceInfo
    environment: Environment
    outside_at_rest_bytes: int
    """Held outside PyTorch's allocator after opening the context and running one kernel."""
    properties: tuple[tuple[str, str], ...]
    """Fields of `torch.cuda.get_device_properties`, names and values as text."""
    cudnn_properties: str
    """cuDNN's description of the card (JSON), or the reason for its absence."""

    @property
    def is_fake(self) -> bool:
        """True if the device's name contains the word FAKE, as for every fake GPU of a test."""
        return "fake" in re.findall(r"[a-z0-9]+", self.device.name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthTrial:
    """One configuration at one batch size, and its result."""

    schema_version: int
    name: str
    spec: TrialSpec
    outcome: Outcome
    measurement: Measurement | None
    failure: Failure | None
    started_at: str
    """ISO 8601, UTC."""
    wall_seconds: float
    torch: str
    allocator_settings: str
    """Value of `PYTORCH_CUDA_ALLOC_CONF`; empty if unset."""
    marks: tuple[tuple[int, str], ...] = ()
    """Start of each phase: the number of earlier events of the history, and the phase's name."""
    places: tuple[str, ...] = ()
    """Python functions that allocated, each once; empty text if none was running."""
    place_of: tuple[int, ...] = ()
    """For each allocation of the history, in order: an index into `places`."""
    history_failure: str = ""
    """The reason if a wanted allocator history is missing, else empty."""

    @property
    def is_complete(self) -> bool:
        """True if the trial need not be recorded again."""
        return self.outcome is not Outcome.FAILED and not self.history_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Everything recorded on one machine."""

    name: str
    """The name of the machine's folder."""
    machine: Machine
    trials: tuple[tuple[Path, TruthTrial], ...]
    boundaries: tuple[Run, ...]


def release_of(version: str) -> str:
    """Return a version without its local part: 2.11.0 for 2.11.0+cu130."""
    return version.partition("+")[0]


def folder_of(root: Path, device_name: str) -> Path:
    """Return the folder of a GPU: its name in lower case, with hyphens between words."""
    return root / "-".join(re.findall(r"[a-z0-9]+", device_name.lower()))


def trial_path(folder: Path, name: str) -> Path:
    """Return the file of a trial."""
    return folder / _TRIALS / f"{name}.json.gz"


def raw_path(folder: Path, name: str) -> Path:
    """Return the file for the snapshots of a trial that could not be reduced."""
    return folder / "raw" / f"{name}.pickle.gz"


def unfinished_folder(folder: Path, name: str) -> Path:
    """Return the folder of an unfinished search."""
    return folder / "unfinished" / name


def boundary_folder(folder: Path, name: str) -> Path:
    """Return the folder of a run that looked for a boundary."""
    return folder / _BOUNDARIES / name


def save_trial(path: Path, trial: TruthTrial, history: Mapping[str, Any] | None) -> None:
    """Write a trial with its allocator history, if there is one.

    Args:
        path: The file to write.
        trial: The trial.
        history: The history of format 1, or None.

    Raises:
        FileError: The file cannot be written.
    """
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**(history or {}), "truth": to_json(trial)}, separators=(",", ":"))
    # No time stamp inside: the same figures make the same file.
    write_atomically(path, gzip.compress(text.encode(), mtime=0))


def load_trial(path: Path) -> TruthTrial:
    """Read a trial, without its history.

    Raises:
        FileError: The file cannot be read, is damaged, or has another version.
    """
    value = _read(path).get("truth")
    trial = _decoded(TruthTrial, path, value)
    if value is None or "habits" in value["spec"]["variant"]["own"]:
        return trial
    variant = trial.spec.variant
    own = replace(variant.own, habits=FIRST_HABITS)
    return replace(trial, spec=replace(trial.spec, variant=replace(variant, own=own)))


def save_machine(folder: Path, machine: Machine) -> None:
    """Write `machine.json`.

    Raises:
        FileError: The file cannot be written.
    """
    path = folder / "machine.json"
    with file_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(to_json(machine), indent=1) + "\n").encode())


def load_machine(folder: Path) -> Machine | None:
    """Read `machine.json`; None if the folder has none yet.

    Raises:
        FileError: The file cannot be read, is damaged, or has another version.
    """
    path = folder / "machine.json"
    return _decoded(Machine, path, _read(path)) if path.exists() else None


def check_fake(folder: Path, machine: Machine, fakes: Fakes) -> None:
    """Refuse a machine with a fake GPU, unless fakes are accepted.

    Args:
        folder: The folder of the machine.
        machine: The machine.
        fakes: The treatment of fake GPUs.

    Raises:
        FileError: The machine has a fake GPU and fakes are refused.
    """
    if machine.is_fake and fakes is Fakes.REFUSE:
        raise FileError(
            f"{folder} was recorded on a fake GPU ({machine.device.name})",
            hint="add --fake to use it anyway",
        )


def load_all(root: Path = ROOT, *, fakes: Fakes = Fakes.REFUSE) -> Iterator[Truth]:
    """Load everything recorded below a folder, machine by machine, ordered by name.

    Raises:
        FileError: A file cannot be read, is damaged, of another version, or of a fake GPU.
    """
    for folder in sorted(path.parent for path in root.glob("*/machine.json")):
        machine = load_machine(folder)
        assert machine is not None  # noqa: S101 - it was found
        check_fake(folder, machine, fakes)
        paths = sorted((folder / _TRIALS).glob("*.json.gz"))
        yield Truth(
            name=folder.name,
            machine=machine,
            trials=tuple((path, load_trial(path)) for path in paths),
            boundaries=tuple(
                load_run(path) for path in sorted((folder / _BOUNDARIES).glob("*/run.json"))
            ),
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        with file_errors(path):
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
        value = json.loads(text)
    except (EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, "it is not a JSON object")
    return value


def _decoded(kind: type[T], path: Path, value: object) -> T:
    try:
        found = from_json(kind, value)
    except MalformedError as error:
        raise _damaged(path, str(error)) from error
    if found.schema_version != SCHEMA_VERSION:
        raise FileError(f"{path} has version {found.schema_version}, not {SCHEMA_VERSION}")
    return found


def _damaged(path: Path, why: str) -> FileError:
    return FileError(f"{path} is damaged: {why}", hint="delete it and record it again")
