"""The child process: trials in, outcomes out, one JSON line each.

It ends when its standard input does, so nothing is left behind by a parent that was killed.
"""

import os
import queue
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar

from bsprobe.devices.base import Device, ReportPhase
from bsprobe.devices.selection import open_device, torch_device
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import BsprobeError, DeviceError
from bsprobe.records.failures import Outcome, classify
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Failure, Measurement, Source
from bsprobe.records.variants import Variant
from bsprobe.training.models.factory import check_variant
from bsprobe.worker.protocol import (
    KINDS,
    Attribute,
    Explain,
    Explained,
    FitCards,
    Fitted,
    Group,
    Kinds,
    Message,
    OpenDevice,
    Progress,
    Ready,
    Record,
    Recorded,
    Refused,
    Request,
    RunTrial,
    TrialDone,
    decode,
    encode,
)
from bsprobe.worker.required import missing_package
from bsprobe.worker.sources import imported_files

Result = TypeVar("Result")

_ORPHANED = 3
"""Exit status when the parent is gone; nobody reads it."""


class _Channel:
    """The pipes to the parent."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        # Libraries print to standard output; the parent must only ever see our lines there.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        # A pipe of our own: loading processes close their standard input when they are forked,
        # and would wait for ever for the lock of a reader that was reading then.
        self._in: BinaryIO = os.fdopen(os.dup(0), "rb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._inbox: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def send(self, message: Message) -> None:
        self._out.write(encode(message))
        self._out.flush()

    def messages(self) -> Iterator[Message]:
        while True:
            yield self._inbox.get()

    def _read(self) -> None:
        try:
            for line in self._in:
                self._inbox.put(decode(line, self._kinds))
        except Exception:  # noqa: BLE001 - the parent waits for an answer that would never come
            traceback.print_exc()
            os._exit(1)
        # The parent closed the pipe or died. A step may be running for minutes: do not wait for it.
        os._exit(_ORPHANED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The outcome of work that failed, and its failure."""

    outcome: Outcome
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An open device, and the way back to the parent that asked for it."""

    device: Device
    request: DeviceRequest
    send: Callable[[Message], None]

    def attempt(self, work: Callable[[ReportPhase], Result]) -> Result | Failed:
        """Do something on the device; a failure, of whatever kind, comes back described."""
        phase = "building"

        def report(now: str) -> None:
            nonlocal phase
            phase = now
            self.send(Progress(phase=now))

        try:
            return work(report)
        except BsprobeError:
            raise  # nobody's bug, and no verdict on the batch: the run must stop and say so
        except Exception as error:  # the one place where any failure becomes data
            self.device.lift_limit()
            if isinstance(error, ImportError) and (missing := missing_package(str(error))):
                raise missing from error  # as above
            outcome, failure = describe_failure(error, phase, self.device.info.kind)
            return Failed(outcome=outcome, failure=failure)


Handlers = Mapping[type[Request], Callable[[Session, Any], None]]
"""The requests that a worker serves, and what serves each: it sends the answer itself."""


def serve(handlers: Handlers, kinds: Kinds) -> None:
    """Serve one parent until it goes away.

    Args:
        handlers: What to do at each request but the first, which opens the device.
        kinds: The messages that may come.
    """
    channel = _Channel(kinds)
    session: Session | None = None
    for message in channel.messages():
        try:
            if isinstance(message, OpenDevice):
                variants = _looked_up(message)
                device = open_device(message.request)
                session = Session(device=device, request=message.request, send=channel.send)
                channel.send(_ready(device, variants))
            elif session is not None and isinstance(message, Request):
                handlers[type(message)](session, message)
        except BsprobeError as error:
            channel.send(Refused(message=str(error), hint=error.hint))


def _looked_up(message: OpenDevice) -> tuple[Variant, ...]:
    """The variants, completed, once everything that will be asked for is known to be there."""
    with _without_gpu(message.request):
        for variant in message.variants:
            check_variant(variant)
    if message.data is not None:
        from bsprobe.training.images import check_images  # noqa: PLC0415 - imports torchvision

        check_images(message.data)
    if all(each.is_complete for each in message.variants):
        return message.variants
    from bsprobe.simulate.trace.completion import all_completed  # noqa: PLC0415 - others need none

    return all_completed(message.variants)


def _without_gpu(request: DeviceRequest) -> AbstractContextManager[None]:
    """The context in which a predicted network is imported: `.cuda()` leaves it where it is."""
    if request.gpu is None:
        return nullcontext()
    from bsprobe.simulate.trace.named_device import named_device  # noqa: PLC0415 - others need none

    return named_device()


def _ready(device: Device, variants: tuple[Variant, ...]) -> Ready:
    import torch  # noqa: PLC0415 - the device has imported it; this module stays light to read

    cudnn = torch.backends.cudnn.version() if device.info.kind is not DeviceKind.CPU else None
    return Ready(
        device=device.info,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        cpu_threads=torch.get_num_threads(),
        variants=variants,
    )


def run_trial(session: Session, message: RunTrial) -> None:
    """Run one trial, alone or in a group; whatever it dies of becomes a record."""
    device = session.device

    def work(report: ReportPhase) -> Measurement:
        if message.group is not None:
            report("joining the others")
            _join(message.group, session.request)
        return device.run_trial(message.spec, report)

    found = session.attempt(work)
    files = imported_files()
    if isinstance(found, Failed):
        done = TrialDone(
            outcome=found.outcome,
            failure=found.failure,
            # A simulated failure leaves nothing behind; after a real one nobody can be sure.
            clean=device.info.source is Source.PREDICTED,
            budget_bytes=device.budget_bytes,
            files=files,
        )
    else:
        done = TrialDone(
            outcome=Outcome.FITS_WITH_RETRIES if found.allocator_retries else Outcome.FITS,
            measurement=found,
            clean=_is_clean(device),
            budget_bytes=device.budget_bytes,
            files=files,
        )
    session.send(done)


def _join(group: Group, request: DeviceRequest) -> None:
    """Enter the process group of a trial, by way of this process's own device."""
    import torch  # noqa: PLC0415 - as in _ready

    from bsprobe.worker.ranks.store import join  # noqa: PLC0415 - one process needs none of it

    where = torch_device(request)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    join(group, where)


def explain(session: Session, message: Explain | Attribute) -> None:
    """Say where the memory of a trial goes; whatever that dies of becomes a record.

    Raises:
        DeviceError: The device is no simulated one.
    """
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - real ones need none

    device = session.device
    if not isinstance(device, SimulatedDevice):
        raise DeviceError(
            f"where the memory goes is predicted, not known to {device.info.name}",
            hint="name the card: bsprobe explain --gpu NAME",
        )
    path = None if message.snapshot is None else Path(message.snapshot)
    if isinstance(message, Explain):
        work = partial(device.explain, message.spec, snapshot=path)
    else:
        work = partial(device.attribute, message.trial, snapshot=Path(message.snapshot))
    found = session.attempt(work)
    if isinstance(found, Failed):
        session.send(Explained(failure=found.failure))
    else:
        session.send(Explained(explanation=found))


def record(session: Session, message: Record) -> None:
    """Run a trial and record it; whatever it dies of becomes a record.

    Raises:
        DeviceError: The device is no GPU.
    """
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - others need none

    device = session.device
    if not isinstance(device, CudaDevice):
        raise DeviceError(
            f"{device.info.name} has no allocator that records what it does",
            hint="name a card to predict for: bsprobe explain --gpu NAME",
        )
    snapshot = Path(message.snapshot)
    found = session.attempt(partial(device.record_trial, message.spec, snapshot=snapshot))
    if isinstance(found, Failed):
        session.send(Recorded(failure=found.failure))
    else:
        session.send(Recorded(trial=found))


def fit(session: Session, message: FitCards) -> None:
    """Say how large a batch of each variant each card runs, card by card."""
    from bsprobe.devices.fitting import fit_cards  # noqa: PLC0415 - real devices need none

    for found in fit_cards(message.variants, message.gpus, max_batch=message.max_batch):
        session.send(Fitted(fit=found))


def _is_clean(device: Device) -> bool:
    """True where the device takes another trial; one that is gone now has measured all the same."""
    try:
        return device.is_clean()
    except Exception:  # noqa: BLE001 - the worker's boundary: what was measured must not be lost
        return False


def describe_failure(error: Exception, phase: str, kind: DeviceKind) -> tuple[Outcome, Failure]:
    """The outcome and the record of a trial that failed.

    Args:
        error: What was raised.
        phase: The phase in which it was.
        kind: The kind of device that it ran on.
    """
    message = str(error).strip() or type(error).__name__
    verdict = classify(kind, types=[kind.__name__ for kind in type(error).__mro__], message=message)
    return verdict.outcome, Failure(
        message=f"{type(error).__name__}: {message.splitlines()[0]}",
        certainty=verdict.certainty,
        evidence=verdict.evidence,
        phase=phase,
        traceback=_without_folders("".join(traceback.format_exception(error))),
        place=_place_of(error) if verdict.outcome is Outcome.FAILED else None,
    )


def _place_of(error: Exception) -> str | None:
    """The last line outside of bsprobe and of installed packages that was running."""
    libraries = {str(Path(__file__).resolve().parents[1])} | {
        sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib")
    }
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, "<")):
            return f"{_without_folders(frame.filename)}, line {frame.lineno}"
    return None


def _without_folders(text: str) -> str:
    """A traceback without where this machine keeps its packages: reports are made to be shared."""
    package = Path(__file__).resolve().parents[2]
    for folder in sorted({str(package), *sys.path} - {""}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text


HANDLERS: Handlers = MappingProxyType(
    {RunTrial: run_trial, Explain: explain, Attribute: explain, Record: record, FitCards: fit}
)

if __name__ == "__main__":
    serve(HANDLERS, KINDS)
