"""What parent and worker say to each other: one JSON object a line."""

import json
import typing
from dataclasses import dataclass

from bsprobe.explanation import Explanation
from bsprobe.failures import Outcome
from bsprobe.records import DataSource, DeviceInfo, DeviceRequest, Failure, Measurement, TrialSpec
from bsprobe.serialization import MalformedError, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice:
    """To the worker, first: the device to run everything on."""

    request: DeviceRequest
    models: tuple[str, ...] = ()
    """Models that will be asked for: their names are checked, and their libraries loaded, now."""
    data: DataSource | None = None
    """Images that will be asked for: looked at, and their libraries loaded, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrial:
    """To the worker: run this."""

    spec: TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """To the worker: say where the memory of this goes."""

    spec: TrialSpec
    snapshot: str | None = None
    """An absolute path to write a memory snapshot to, for PyTorch's own viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """From the worker: where the memory goes."""

    explanation: Explanation


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


Message = OpenDevice | RunTrial | Explain | Explained | Ready | Refused | Progress | TrialDone
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


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
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {line[:80]!r}") from error
    kind = body.pop("kind", None) if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MalformedError(f"not a message: {line[:80]!r}")
    return from_json(_KINDS[kind], body)
