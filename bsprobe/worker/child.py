"""The worker process: reads requests and writes answers, one line of JSON each.

It exits at the end of its standard input, so it does not outlive a killed parent.
"""

import os
import queue
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
from bsprobe.devices.failing import describe_failure
from bsprobe.devices.selection import open_device, torch_device
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import BsprobeError, DeviceError
from bsprobe.records.failures import Outcome
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
"""Exit status if the parent is gone; nobody reads it."""


class _Channel:
    """The pipes to the parent."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        # Libraries print to standard output, so messages get a descriptor of their own.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        # A separate descriptor: data-loader processes close their standard input after the fork,
        # and would deadlock on the lock of a thread that was reading from it.
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
        except Exception:  # noqa: BLE001 - the parent would wait for an answer without end
            traceback.print_exc()
            os._exit(1)
        # The parent closed the pipe or died. Do not wait for a step, which may take minutes.
        os._exit(_ORPHANED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The outcome of failed work, and its failure."""

    outcome: Outcome
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An open device, and the connection to the parent."""

    device: Device
    request: DeviceRequest
    send: Callable[[Message], None]

    def attempt(self, work: Callable[[ReportPhase], Result]) -> Result | Failed:
        """Run work on the device and return its failure instead of raising it.

        Raises:
            BsprobeError: The work raised it. It is no verdict on the batch and ends the run.
        """
        phase = "building"

        def report(now: str) -> None:
            nonlocal phase
            phase = now
            self.send(Progress(phase=now))

        try:
            return work(report)
        except BsprobeError:
            raise
        except Exception as error:  # any other failure is recorded as data
            self.device.lift_limit()
            if isinstance(error, ImportError) and (missing := missing_package(str(error))):
                raise missing from error
            outcome, failure = describe_failure(error, phase, self.device.info.kind)
            return Failed(outcome=outcome, failure=failure)


Handlers = Mapping[type[Request], Callable[[Session, Any], None]]
"""The handler of each request of a worker; a handler sends the answer itself."""


def serve(handlers: Handlers, kinds: Kinds) -> None:
    """Serve one parent until it closes the pipe.

    Args:
        handlers: The handler of each request except the first, which opens the device.
        kinds: The messages that may arrive.
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
    """Check that all variants and images exist, and return the completed variants."""
    with _without_gpu(message.request):
        for variant in message.variants:
            check_variant(variant)
    if message.data is not None:
        from bsprobe.training.images import check_images  # noqa: PLC0415 - imports torchvision

        check_images(message.data)
    if any(each.own.batches is not None for each in message.variants):
        from bsprobe.training.drawn_batches import with_draws  # noqa: PLC0415 - rarely needed

        with _without_gpu(message.request):
            return with_draws(message.variants)
    if all(each.is_complete for each in message.variants):
        return message.variants
    from bsprobe.simulate.trace.completion import all_completed  # noqa: PLC0415 - rarely needed

    return all_completed(message.variants)


def _without_gpu(request: DeviceRequest) -> AbstractContextManager[None]:
    """Return the context for importing a predicted network, in which `.cuda()` does nothing."""
    if request.gpu is None:
        return nullcontext()
    from bsprobe.simulate.trace.named_device import named_device  # noqa: PLC0415 - only to predict

    return named_device()


def _ready(device: Device, variants: tuple[Variant, ...]) -> Ready:
    import torch  # noqa: PLC0415 - imported by the device; this module loads fast

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
    """Run one trial, alone or in a group, and send its result, which may be a failure."""
    device = session.device

    def work(report: ReportPhase) -> Measurement:
        if message.group is not None:
            report("joining the process group")
            _join(message.group, session.request)
        return device.run_trial(message.spec, report)

    found = session.attempt(work)
    files = imported_files()
    if isinstance(found, Failed):
        done = TrialDone(
            outcome=found.outcome,
            failure=found.failure,
            # A real failure may leave memory allocated, a simulated one does not.
            clean=device.info.source is Source.PREDICTED,
            budget_bytes=device.budget_bytes,
            files=files,
        )
    else:
        done = TrialDone(
            outcome=Outcome.FITS_WITH_RETRIES if found.allocator_retries else Outcome.FITS,
            measurement=found,
            clean=_is_clean(device) and not _has_failed_to_validate(found, device),
            budget_bytes=device.budget_bytes,
            files=files,
        )
    session.send(done)


def _join(group: Group, request: DeviceRequest) -> None:
    """Join the process group of a trial, with the device of this process."""
    import torch  # noqa: PLC0415 - as in _ready

    from bsprobe.worker.ranks.store import join  # noqa: PLC0415 - not needed by one process

    where = torch_device(request)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    join(group, where)


def explain(session: Session, message: Explain | Attribute) -> None:
    """Explain the memory of a trial, and send the explanation or the failure.

    Raises:
        DeviceError: The device is not simulated.
    """
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - only to predict

    device = session.device
    if not isinstance(device, SimulatedDevice):
        raise DeviceError(
            f"only a simulated card can explain its memory, not {device.info.name}",
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
    """Run a trial while PyTorch records its allocations, and send the record or the failure.

    Raises:
        DeviceError: The device is not a GPU.
    """
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - only to record

    device = session.device
    if not isinstance(device, CudaDevice):
        raise DeviceError(
            f"only a GPU can record its allocations, not {device.info.name}",
            hint="name a card to predict for: bsprobe explain --gpu NAME",
        )
    snapshot = Path(message.snapshot)
    found = session.attempt(partial(device.record_trial, message.spec, snapshot=snapshot))
    if isinstance(found, Failed):
        session.send(Recorded(failure=found.failure))
    else:
        session.send(Recorded(trial=found))


def fit(session: Session, message: FitCards) -> None:
    """Predict the largest batch of each variant on each card, and send each result."""
    from bsprobe.devices.fitting import fit_cards  # noqa: PLC0415 - only to predict

    for found in fit_cards(message.variants, message.gpus, max_batch=message.max_batch):
        session.send(Fitted(fit=found))


def _has_failed_to_validate(measured: Measurement, device: Device) -> bool:
    """Return whether a real validation failed, after which the limit of the device is lifted."""
    tried = measured.validation
    return tried is not None and not tried.fits and device.info.source is Source.MEASURED


def _is_clean(device: Device) -> bool:
    """Return whether the device can run another trial; False if it raises."""
    try:
        return device.is_clean()
    except Exception:  # noqa: BLE001 - the finished measurement must still be sent
        return False


HANDLERS: Handlers = MappingProxyType(
    {RunTrial: run_trial, Explain: explain, Attribute: explain, Record: record, FitCards: fit}
)

if __name__ == "__main__":
    serve(HANDLERS, KINDS)
