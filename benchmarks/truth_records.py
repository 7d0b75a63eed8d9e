"""The files below `tests/data/truth`: what was measured on GPUs, to hold predictions against.

    GPU/machine.json                the card, the versions, what lies outside the allocator
    GPU/plans.json.gz               what cuDNN plans and runs on the card: `card_plans.py` wrote it
    GPU/trials/NAME.json.gz         one trial: its peaks and, most with, the allocator's history
    GPU/raw/NAME.pickle.gz          PyTorch's snapshots of the first trial that could not be reduced
    GPU/boundaries/NAME/run.json    a finished `bsprobe run` under a memory limit
    GPU/boundaries/NAME/failed.txt  the end of what it said where it did not finish
    GPU/unfinished/NAME/            a `bsprobe run` that did not finish, to go on with

One process records many trials, and loads their kernels: what lies outside the allocator grows from
trial to trial by a little. Runs and trials of tiers 2 and 3 have processes of their own.

A trial's file is an allocator history of format 1 (`benchmarks.validation.history` reads it as it
stands) with one field more, `truth`: a `TruthTrial`.
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
"""Those of the loop of recordings that name none."""
ROOT = Path(__file__).parents[1] / "tests" / "data" / "truth"
_TRIALS, _BOUNDARIES = "trials", "boundaries"

T = TypeVar("T", "Machine", "TruthTrial")


class Fakes(StrEnum):
    """The two ways to treat recordings of a fake GPU, which are no truth."""

    REFUSE = "refuse"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that a folder was recorded on."""

    schema_version: int
    device: DeviceInfo
    environment: Environment
    outside_at_rest_bytes: int
    """Held outside PyTorch's allocator once the context is open and one kernel has run."""
    properties: tuple[tuple[str, str], ...]
    """What `torch.cuda.get_device_properties` says, names and values as text."""
    cudnn_properties: str
    """The card as cuDNN describes it to itself (JSON), or why that is not known."""

    @property
    def is_fake(self) -> bool:
        """Whether the device's name has the word FAKE in it, as every fake GPU of a test has."""
        return "fake" in re.findall(r"[a-z0-9]+", self.device.name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthTrial:
    """One configuration at one batch size, and what came of it."""

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
    """`PYTORCH_CUDA_ALLOC_CONF` as it was set; empty where it was not."""
    marks: tuple[tuple[int, str], ...] = ()
    """Where phases began: how many events of the history came before, and the phase's name."""
    places: tuple[str, ...] = ()
    """Python functions that allocated, each once; empty text where none was running."""
    place_of: tuple[int, ...] = ()
    """For each allocation of the history, in order: an index into `places`."""
    history_failure: str = ""
    """Why the allocator's history is missing though it was wanted; empty where it is not."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is gained by recording it again."""
        return self.outcome is not Outcome.FAILED and not self.history_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Everything that was recorded on one machine."""

    name: str
    """The name of its folder."""
    machine: Machine
    trials: tuple[tuple[Path, TruthTrial], ...]
    boundaries: tuple[Run, ...]


def release_of(version: str) -> str:
    """The release of a package, without its local part: 2.11.0+cu130 is 2.11.0."""
    return version.partition("+")[0]


def folder_of(root: Path, device_name: str) -> Path:
    """The folder of a GPU: its name in lower case, words joined by hyphens."""
    return root / "-".join(re.findall(r"[a-z0-9]+", device_name.lower()))


def trial_path(folder: Path, name: str) -> Path:
    """Where a trial of this name is, or is to be."""
    return folder / _TRIALS / f"{name}.json.gz"


def raw_path(folder: Path, name: str) -> Path:
    """The file for the snapshots of a trial that could not be reduced."""
    return folder / "raw" / f"{name}.pickle.gz"


def unfinished_folder(folder: Path, name: str) -> Path:
    """The folder of a search that is not finished."""
    return folder / "unfinished" / name


def boundary_folder(folder: Path, name: str) -> Path:
    """Where the run that looked for a boundary is, or is to be."""
    return folder / _BOUNDARIES / name


def save_trial(path: Path, trial: TruthTrial, history: Mapping[str, Any] | None) -> None:
    """Write a trial and, where it was recorded, the allocator's history.

    Raises:
        FileError: The disk does not take it.
    """
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**(history or {}), "truth": to_json(trial)}, separators=(",", ":"))
    # No time stamp inside: the same figures make the same file.
    write_atomically(path, gzip.compress(text.encode(), mtime=0))


def load_trial(path: Path) -> TruthTrial:
    """Read a trial, without its history.

    Raises:
        FileError: The file cannot be read, is damaged, or of another version.
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
        FileError: The disk does not take it.
    """
    path = folder / "machine.json"
    with file_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(to_json(machine), indent=1) + "\n").encode())


def load_machine(folder: Path) -> Machine | None:
    """Read `machine.json`; None where the folder has none yet.

    Raises:
        FileError: The file cannot be read, is damaged, or of another version.
    """
    path = folder / "machine.json"
    return _decoded(Machine, path, _read(path)) if path.exists() else None


def check_fake(folder: Path, machine: Machine, fakes: Fakes) -> None:
    """Refuse a machine with a fake GPU, unless fakes are accepted.

    Raises:
        FileError: It has one, and they are not.
    """
    if machine.is_fake and fakes is Fakes.REFUSE:
        raise FileError(
            f"{folder} was recorded on a fake GPU ({machine.device.name}): it is no truth",
            hint="add --fake to try things out with it all the same",
        )


def load_all(root: Path = ROOT, *, fakes: Fakes = Fakes.REFUSE) -> Iterator[Truth]:
    """Everything recorded below a folder, machine by machine, in the order of the names.

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
        raise _damaged(path, "it holds no object")
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
    return FileError(f"{path} is damaged: {why}", hint="delete it and record it anew")
