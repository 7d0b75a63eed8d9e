"""The messages between a parent and its worker: one JSON object per line."""

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
    """A message between parent and worker; each kind is a frozen dataclass."""

    __slots__ = ()


class Request(Message):
    """A message to the worker."""

    __slots__ = ()


class Answer(Message):
    """A message that ends a request."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice(Request):
    """The first request: opens the device of all later requests."""

    request: DeviceRequest
    variants: tuple[Variant, ...] = ()
    """The variants of the run. The worker loads everything that they name, and returns them with
    `Ready`, completed from their networks."""
    data: DataSource | None = None
    """The images of later trials. The worker checks them and loads the libraries for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The process group of one trial, as one of its members joins it."""

    host: str
    port: int
    """Of the store to which all members connect."""
    name: str
    """Unique to this trial, so that keys of an earlier group in the store are not read."""
    rank: int
    processes: int
    timeout_seconds: float
    """Of each collective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrial(Request):
    """Request to run a trial."""

    spec: TrialSpec
    group: Group | None = None
    """The process group of a trial of several processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain(Request):
    """Request to explain the memory of a trial on a simulated card."""

    spec: TrialSpec
    snapshot: str | None = None
    """Absolute path for a memory snapshot in the format of PyTorch's viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Request):
    """Request to run a trial while PyTorch records its allocations."""

    spec: TrialSpec
    snapshot: str
    """Absolute path for the record, a memory snapshot of PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Request):
    """Request to a predicting worker to explain the memory of a recorded trial."""

    trial: RecordedTrial
    snapshot: str
    """Absolute path of the snapshot that `Record` has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCards(Request):
    """Request to predict the largest batch of each variant on each card."""

    variants: tuple[Variant, ...]
    gpus: tuple[Gpu, ...]
    max_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Message):
    """One result of `FitCards`, which has one for each variant on each card."""

    fit: CardFit


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """Answer to `OpenDevice`: the device is open."""

    device: DeviceInfo
    torch: str
    cuda: str | None
    cudnn: str | None
    cpu_threads: int
    variants: tuple[Variant, ...] = ()
    """The requested variants, completed from their networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """Answer to a request that cannot be served, with an error that the user can act on."""

    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """The current phase of the worker (`building`, `step 2 of 4` …)."""

    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone(Answer):
    """Answer to `RunTrial`: the result of the trial."""

    outcome: Outcome
    measurement: Measurement | None = None
    failure: Failure | None = None
    clean: bool
    """True if memory is back at its level before the trial, so that the process can run another."""
    budget_bytes: int | None = None
    """As in `Trial`."""
    files: tuple[str, ...] = ()
    """The user's own files that the worker has imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained(Answer):
    """Answer to `Explain` and `Attribute`. Exactly one of explanation and failure is set."""

    explanation: Explanation | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded(Answer):
    """Answer to `Record`. Exactly one of trial and failure is set."""

    trial: RecordedTrial | None = None
    failure: Failure | None = None


Kinds = Mapping[str, type[Message]]
"""The messages that a parent and its worker exchange, by name."""


def kinds_of(*messages: type[Message]) -> Kinds:
    """Map message classes by name, for `decode`."""
    return {message.__name__: message for message in messages}


COMMON: Final = (OpenDevice, Ready, Refused, Progress)
"""The messages of every kind of worker."""
KINDS: Final = kinds_of(
    *COMMON, RunTrial, TrialDone, Explain, Attribute, Explained, Record, Recorded, FitCards, Fitted
)


def encode(message: Message) -> bytes:
    """Encode a message as one line, with its newline."""
    body = {"kind": type(message).__name__, **to_json(message)}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def decode(line: bytes, kinds: Kinds = KINDS) -> Message:
    """Decode the message of a line.

    Args:
        line: One line, with or without its newline.
        kinds: The messages that may arrive.

    Raises:
        MalformedError: The line is not one of these messages.
    """
    try:
        body = parse_json(line)
    except MalformedError as error:
        raise MalformedError(f"{error}: {line[:80]!r}") from error
    kind = body.pop("kind", None) if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise MalformedError(f"not a message: {line[:80]!r}")
    return from_json(kinds[kind], body)
