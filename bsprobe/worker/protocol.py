"""The messages between a parent and its worker: one JSON object a line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bsprobe.records.explanations import Explanation, RecordedTrial
from bsprobe.records.failures import Outcome
from bsprobe.records.fits import CardFit
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import DeviceInfo, DeviceRequest
from bsprobe.records.trials import DataSource, Failure, Measurement, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.storage.codec import MalformedError, from_json, parse_json, to_json


class Message:
    """A line between parent and worker; each kind is a frozen dataclass."""

    __slots__ = ()


class Request(Message):
    """A message to the worker."""

    __slots__ = ()


class Answer(Message):
    """A message that ends a request."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice(Request):
    """To the worker, first: the device to run everything on."""

    request: DeviceRequest
    variants: tuple[Variant, ...] = ()
    """The variants of the run: all that they name is looked up and loaded now. They come back with
    `Ready`, completed by what only the networks tell."""
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
class RunTrial(Request):
    """To the worker: run this."""

    spec: TrialSpec
    group: Group | None = None
    """With whom to run it, where the trial has several processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain(Request):
    """To the worker: say where the memory of this goes."""

    spec: TrialSpec
    snapshot: str | None = None
    """An absolute path to write a memory snapshot to, for PyTorch's own viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Request):
    """To the worker: run this while PyTorch records what its allocator does."""

    spec: TrialSpec
    snapshot: str
    """An absolute path to write the record to: PyTorch's own memory snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Request):
    """To the worker, which predicts: say where the memory of a recorded trial went."""

    trial: RecordedTrial
    snapshot: str
    """An absolute path: what `Record` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCards(Request):
    """To the worker: say how large a batch of each variant each card runs."""

    variants: tuple[Variant, ...]
    gpus: tuple[Gpu, ...]
    max_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Message):
    """From the worker: one answer of as many as there are variants times cards."""

    fit: CardFit


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """From the worker: the device is open."""

    device: DeviceInfo
    torch: str
    cuda: str | None
    cudnn: str | None
    cpu_threads: int
    variants: tuple[Variant, ...] = ()
    """Those that were asked for, completed by what only their networks tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """From the worker: what was asked for cannot be done, and it is nobody's bug."""

    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """From the worker: what it is doing now (`building`, `step 2 of 4` …)."""

    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone(Answer):
    """From the worker: how the trial ended."""

    outcome: Outcome
    measurement: Measurement | None = None
    failure: Failure | None = None
    clean: bool
    """True where memory is back where it was, so that another trial may run in this process."""
    budget_bytes: int | None = None
    """As in `Trial`."""
    files: tuple[str, ...] = ()
    """The files of the user's own that the worker has imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained(Answer):
    """From the worker: where the memory goes. Exactly one of explanation and failure is there."""

    explanation: Explanation | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Answer):
    """From the worker: what was recorded. Exactly one of trial and failure is there."""

    trial: RecordedTrial | None = None
    failure: Failure | None = None


Kinds = Mapping[str, type[Message]]
"""The messages that a parent and its worker understand, by name."""


def kinds_of(*messages: type[Message]) -> Kinds:
    """The table of some messages, for `decode`."""
    return {message.__name__: message for message in messages}


COMMON: Final = (OpenDevice, Ready, Refused, Progress)
"""The messages of every worker, whatever it is asked to do."""
KINDS: Final = kinds_of(
    *COMMON, RunTrial, TrialDone, Explain, Attribute, Explained, Record, Recorded, FitCards, Fitted
)


def encode(message: Message) -> bytes:
    """One line, newline included."""
    body = {"kind": type(message).__name__, **to_json(message)}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def decode(line: bytes, kinds: Kinds = KINDS) -> Message:
    """The message of a line.

    Args:
        line: One line, with or without its newline.
        kinds: The messages that may come.

    Raises:
        MalformedError: The line is none of these messages.
    """
    try:
        body = parse_json(line)
    except MalformedError as error:
        raise MalformedError(f"{error}: {line[:80]!r}") from error
    kind = body.pop("kind", None) if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise MalformedError(f"not a message: {line[:80]!r}")
    return from_json(kinds[kind], body)
