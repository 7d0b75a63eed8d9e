"""What parent and worker say to each other: one JSON object a line."""

import json
from dataclasses import dataclass
from typing import get_args

from bsprobe.records.explanations import Explanation, RecordedTrial
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import CardFit, DeviceInfo, DeviceRequest
from bsprobe.records.trials import DataSource, Failure, Measurement, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json
from bsprobe.study.records import LoaderSpec, Loading, TrainingResult, TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice:
    """To the worker, first: the device to run everything on."""

    request: DeviceRequest
    variants: tuple[Variant, ...] = ()
    """What will be asked for: what it names is looked up, and its libraries are loaded, now."""
    data: DataSource | None = None
    """Images that will be asked for: looked at, and their libraries loaded, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The process group of one trial: where its members meet, and which of them one is."""

    host: str
    port: int
    name: str
    """Of this trial alone: what an earlier group has left at the meeting place is not met again."""
    rank: int
    processes: int
    timeout_seconds: float
    """For each of its collectives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrial:
    """To the worker: run this."""

    spec: TrialSpec
    group: Group | None = None
    """With whom to run it, where the trial has several processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """To the worker: say where the memory of this goes."""

    spec: TrialSpec
    snapshot: str | None = None
    """An absolute path to write a memory snapshot to, for PyTorch's own viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """To the worker: run this while PyTorch records what its allocator does."""

    spec: TrialSpec
    snapshot: str
    """An absolute path to write the record to: PyTorch's own memory snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """To the worker, which predicts: say where the memory of a recorded trial went."""

    trial: RecordedTrial
    snapshot: str
    """An absolute path: what `Record` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCards:
    """To the worker: say how large a batch of each variant each card runs."""

    variants: tuple[Variant, ...]
    gpus: tuple[Gpu, ...]
    max_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """From the worker: one answer of as many as there are variants times cards."""

    fit: CardFit


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """To the worker: make a training, or go on with it from its checkpoint."""

    spec: TrainingSpec
    checkpoint: str
    """The file that the training is kept in until it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLoading:
    """To the worker: sweep the settings of the data loader."""

    spec: LoaderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From the worker: the device is open."""

    device: DeviceInfo
    torch: str
    cuda: str | None
    cudnn: str | None
    cpu_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """From the worker: what was asked for cannot be done, and it is nobody's bug."""

    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """From the worker: what it is doing now (`building`, `step 2 of 4` …)."""

    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone:
    """From the worker: how the trial ended."""

    outcome: Outcome
    measurement: Measurement | None = None
    failure: Failure | None = None
    clean: bool
    """Whether memory is back where it was, so that another trial may run in this process."""
    budget_bytes: int | None = None
    """As in `Trial`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDone:
    """From the worker: how a training ended. Exactly one of result and failure is there."""

    outcome: Outcome
    result: TrainingResult | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingDone:
    """From the worker: what the sweep says. Exactly one of result and failure is there."""

    outcome: Outcome
    result: Loading | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """From the worker: where the memory goes. Exactly one of explanation and failure is there."""

    explanation: Explanation | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """From the worker: what was recorded. Exactly one of trial and failure is there."""

    trial: RecordedTrial | None = None
    failure: Failure | None = None


Request = OpenDevice | RunTrial | Explain | Record | Attribute | FitCards | Train | MeasureLoading
Answer = TrialDone | Explained | Recorded | TrainingDone | LoadingDone
Message = Request | Answer | Fitted | Ready | Refused | Progress
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """One line, newline included."""
    body = {"kind": type(message).__name__, **to_json(message)}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises:
        MalformedError: The line is no message.
    """
    try:
        body = parse_json(line)
    except MalformedError as error:
        raise MalformedError(f"{error}: {line[:80]!r}") from error
    kind = body.pop("kind", None) if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MalformedError(f"not a message: {line[:80]!r}")
    return from_json(_KINDS[kind], body)
