"""The child process: trials in, outcomes out, one JSON line each.

It ends when its standard input does, so nothing is left behind by a parent that was killed.
"""

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from bsprobe.devices.base import Device, ReportPhase
from bsprobe.devices.selection import open_device
from bsprobe.records.errors import BsprobeError, DeviceError, UsageError
from bsprobe.records.failures import Outcome, classify
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Failure, Measurement, Source
from bsprobe.study.learning.place import Meter, Place
from bsprobe.training.models.factory import check_variant
from bsprobe.worker.protocol import (
    Attribute,
    Explain,
    Explained,
    FitCards,
    Fitted,
    Group,
    LoadingDone,
    MeasureLoading,
    Message,
    OpenDevice,
    Progress,
    Ready,
    Record,
    Recorded,
    Refused,
    RunTrial,
    Train,
    TrainingDone,
    TrialDone,
    decode,
    encode,
)
from bsprobe.worker.required import missing_package

Result = TypeVar("Result")

_ORPHANED = 3
"""Exit status when the parent is gone; nobody reads it."""


class _Channel:
    """The pipes to the parent."""

    def __init__(self) -> None:
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
        for line in self._in:
            self._inbox.put(decode(line))
        # The parent closed the pipe or died. A step may be running for minutes: do not wait for it.
        os._exit(_ORPHANED)


def main() -> None:
    """Serve one parent until it goes away."""
    channel = _Channel()
    device: Device | None = None
    request = DeviceRequest()
    for message in channel.messages():
        try:
            if isinstance(message, OpenDevice):
                request = message.request
                device = _open(message)
                channel.send(_ready(device))
            elif device is not None:
                for answer in _answers(message, device, request, channel):
                    channel.send(answer)
        except BsprobeError as error:
            channel.send(Refused(message=str(error), hint=error.hint))


def _open(message: OpenDevice) -> Device:
    """Open the device, once everything that will be asked of it is known to be there."""
    for variant in message.variants:
        check_variant(variant)
    if message.data is not None:
        from bsprobe.training.images import check_images  # noqa: PLC0415 - imports torchvision

        check_images(message.data)
    return open_device(message.request)


def _answers(
    message: Message, device: Device, request: DeviceRequest, channel: _Channel
) -> Iterator[Message]:
    """Do what the parent asks for; most requests have one answer."""
    if isinstance(message, RunTrial):
        yield _run(device, request, message, channel)
    elif isinstance(message, Explain | Attribute):
        yield _explain(device, message, channel)
    elif isinstance(message, Record):
        yield _record(device, message, channel)
    elif isinstance(message, FitCards):
        from bsprobe.devices.fitting import fit_cards  # noqa: PLC0415 - real devices need none

        for fit in fit_cards(message.variants, message.gpus, max_batch=message.max_batch):
            yield Fitted(fit=fit)
    elif isinstance(message, Train):
        yield _train(device, _place(device, request), message, channel)
    elif isinstance(message, MeasureLoading):
        yield _measure_loading(device, _place(device, request), message, channel)


def _ready(device: Device) -> Ready:
    import torch  # noqa: PLC0415 - the device has imported it; this module stays light to read

    cudnn = torch.backends.cudnn.version() if device.info.kind != "cpu" else None
    return Ready(
        device=device.info,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        cpu_threads=torch.get_num_threads(),
    )


def _run(device: Device, request: DeviceRequest, message: RunTrial, channel: _Channel) -> TrialDone:
    """Run one trial, alone or in a group; whatever it dies of becomes a record."""

    def work(report: ReportPhase) -> Measurement:
        if message.group is not None:
            report("joining the others")
            _join(message.group, request)
        return device.run_trial(message.spec, report)

    measurement = _attempt(device, channel, work)
    if isinstance(measurement, _Failed):
        # A simulated failure leaves nothing behind; after a real one nobody can be sure.
        is_clean = device.info.source is Source.PREDICTED
        return TrialDone(
            outcome=measurement.outcome,
            failure=measurement.failure,
            clean=is_clean,
            budget_bytes=device.budget_bytes,
        )
    outcome = Outcome.FITS_WITH_RETRIES if measurement.allocator_retries else Outcome.FITS
    return TrialDone(
        outcome=outcome,
        measurement=measurement,
        clean=_is_clean(device),
        budget_bytes=device.budget_bytes,
    )


def _join(group: Group, request: DeviceRequest) -> None:
    """Enter the process group of a trial, by way of this process's own device."""
    import torch  # noqa: PLC0415 - as in _ready

    from bsprobe.worker.ranks.world import join  # noqa: PLC0415 - one process needs none of it

    where = torch.device(request.device or "cuda")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    join(group, where)


def _explain(device: Device, message: Explain | Attribute, channel: _Channel) -> Explained:
    """Say where the memory of a trial goes; whatever that dies of becomes a record.

    Raises:
        DeviceError: The device is no simulated one.
    """
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - real ones need none

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
    found = _attempt(device, channel, work)
    if isinstance(found, _Failed):
        return Explained(failure=found.failure)
    return Explained(explanation=found)


def _record(device: Device, message: Record, channel: _Channel) -> Recorded:
    """Run a trial and record it; whatever it dies of becomes a record.

    Raises:
        DeviceError: The device is no GPU.
    """
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - others need none

    if not isinstance(device, CudaDevice):
        raise DeviceError(
            f"{device.info.name} has no allocator that records what it does",
            hint="name a card to predict for: bsprobe explain --gpu NAME",
        )
    snapshot = Path(message.snapshot)
    found = _attempt(device, channel, partial(device.record_trial, message.spec, snapshot=snapshot))
    if isinstance(found, _Failed):
        return Recorded(failure=found.failure)
    return Recorded(trial=found)


def _train(device: Device, place: Place, message: Train, channel: _Channel) -> TrainingDone:
    """Make one training; whatever it dies of becomes a record."""
    from bsprobe.study.learning.train import learn  # noqa: PLC0415 - imports torchvision

    checkpoint = Path(message.checkpoint)
    work = partial(learn, message.spec, checkpoint, place)
    result = _attempt(device, channel, work)
    if isinstance(result, _Failed):
        return TrainingDone(outcome=result.outcome, failure=result.failure)
    return TrainingDone(outcome=Outcome.FITS, result=result)


def _measure_loading(
    device: Device, place: Place, message: MeasureLoading, channel: _Channel
) -> LoadingDone:
    """Sweep the data loader; whatever that dies of becomes a record."""
    from bsprobe.study.learning.loading import measure_loading  # noqa: PLC0415 - as above

    result = _attempt(device, channel, partial(measure_loading, message.spec, place))
    if isinstance(result, _Failed):
        return LoadingDone(outcome=result.outcome, failure=result.failure)
    return LoadingDone(outcome=Outcome.FITS, result=result)


def _place(device: Device, request: DeviceRequest) -> Place:
    """The open device as a place to train on.

    Raises:
        UsageError: The device does not really train.
    """
    import torch  # noqa: PLC0415 - as in _ready

    if not isinstance(device, Meter):
        raise UsageError(
            f"{device.info.name} does not really train", hint="give --device cpu, or a GPU"
        )
    where = torch.device(request.device or "cuda")
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if where.type == "cuda" and device.info.limit_bytes is not None:
        # The allocator's share alone: what lies outside it is not known before it is used.
        share = device.info.limit_bytes / device.info.total_bytes
        torch.cuda.set_per_process_memory_fraction(share, where)
    return Place(device=where, meter=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """What some work died of."""

    outcome: Outcome
    failure: Failure


def _attempt(
    device: Device, channel: _Channel, work: Callable[[ReportPhase], Result]
) -> Result | _Failed:
    """Do something on the device; a failure, of whatever kind, comes back described."""
    phase = "building"

    def report(now: str) -> None:
        nonlocal phase
        phase = now
        channel.send(Progress(phase=now))

    try:
        return work(report)
    except BsprobeError:
        raise  # nobody's bug, and no verdict on the batch: the run must stop and say so
    except Exception as error:  # the one place where any failure becomes data
        device.lift_limit()
        if isinstance(error, ImportError) and (missing := missing_package(str(error))):
            raise missing from error  # as above
        outcome, failure = describe_failure(error, phase)
        return _Failed(outcome=outcome, failure=failure)


def _is_clean(device: Device) -> bool:
    """Whether the device takes another trial; one that is gone by now has measured all the same."""
    try:
        return device.is_clean()
    except Exception:  # noqa: BLE001 - the worker's boundary: what was measured must not be lost
        return False


def describe_failure(error: Exception, phase: str) -> tuple[Outcome, Failure]:
    """What a trial died of, as a record; `phase` is what it was doing."""
    message = str(error).strip() or type(error).__name__
    verdict = classify(types=[kind.__name__ for kind in type(error).__mro__], message=message)
    return verdict.outcome, Failure(
        message=f"{type(error).__name__}: {message.splitlines()[0]}",
        certainty=verdict.certainty,
        evidence=verdict.evidence,
        phase=phase,
        traceback=_without_folders("".join(traceback.format_exception(error))),
    )


def _without_folders(text: str) -> str:
    """A traceback without where this machine keeps its packages: reports are made to be shared."""
    package = Path(__file__).resolve().parents[2]
    for folder in sorted({str(package), *sys.path} - {""}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text


if __name__ == "__main__":
    main()
