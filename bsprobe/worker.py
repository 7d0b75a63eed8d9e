"""The child process: trials in, outcomes out, one JSON line each.

It ends when its standard input does, so nothing is left behind by a parent that was killed.
"""

import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bsprobe.devices.base import Device
from bsprobe.devices.selection import open_device
from bsprobe.errors import BsprobeError, DeviceError
from bsprobe.failures import Outcome, classify
from bsprobe.messages import (
    Explain,
    Explained,
    Message,
    OpenDevice,
    Progress,
    Ready,
    Refused,
    RunTrial,
    TrialDone,
    decode,
    encode,
)
from bsprobe.models.factory import check_model_name
from bsprobe.records import Failure, Source, TrialSpec

_ORPHANED = 3
"""Exit status when the parent is gone; nobody reads it."""


class _Channel:
    """The pipes to the parent."""

    def __init__(self) -> None:
        # Libraries print to standard output; the parent must only ever see our lines there.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._inbox: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def send(self, message: Message) -> None:
        self._out.write(encode(message))
        self._out.flush()

    def messages(self) -> Iterator[Message]:
        while True:
            yield self._inbox.get()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._inbox.put(decode(line))
        # The parent closed the pipe or died. A step may be running for minutes: do not wait for it.
        os._exit(_ORPHANED)


def main() -> None:
    """Serve one parent until it goes away."""
    channel = _Channel()
    device: Device | None = None
    for message in channel.messages():
        try:
            if isinstance(message, OpenDevice):
                for name in message.models:
                    check_model_name(name)
                if message.data is not None:
                    from bsprobe.training.images import check_images  # noqa: PLC0415 - torchvision

                    check_images(message.data)
                device = open_device(message.request)
                channel.send(_ready(device))
            elif isinstance(message, RunTrial) and device is not None:
                channel.send(_run(device, message.spec, channel))
            elif isinstance(message, Explain) and device is not None:
                channel.send(_explain(device, message, channel))
        except BsprobeError as error:
            channel.send(Refused(message=str(error), hint=error.hint))


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


def _run(device: Device, spec: TrialSpec, channel: _Channel) -> TrialDone:
    """Run one trial; whatever it dies of becomes a record."""
    phase = "building"

    def report(now: str) -> None:
        nonlocal phase
        phase = now
        channel.send(Progress(phase=now))

    try:
        measurement = device.run_trial(spec, report)
    except BsprobeError:
        raise  # nobody's bug, and no verdict on the batch: the run must stop and say so
    except Exception as error:  # noqa: BLE001 - the one place where any failure becomes data
        device.lift_limit()
        outcome, failure = _describe(error, phase)
        # A simulated failure leaves nothing behind; after a real one nobody can be sure.
        is_clean = device.info.source is Source.PREDICTED
        return TrialDone(outcome=outcome, failure=failure, clean=is_clean)
    outcome = Outcome.FITS_WITH_RETRIES if measurement.allocator_retries else Outcome.FITS
    return TrialDone(outcome=outcome, measurement=measurement, clean=device.is_clean())


def _explain(device: Device, asked: Explain, channel: _Channel) -> Explained:
    """Say where the memory of a trial goes."""
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - real ones need none

    if not isinstance(device, SimulatedDevice):
        raise DeviceError(
            f"where the memory goes is predicted, not recorded on {device.info.name}",
            hint="name the card: bsprobe explain --gpu NAME",
        )

    def report(now: str) -> None:
        channel.send(Progress(phase=now))

    path = None if asked.snapshot is None else Path(asked.snapshot)
    try:
        return Explained(explanation=device.explain(asked.spec, report, path))
    except BsprobeError:
        raise
    except Exception as error:
        # As in `_run`: a trial of the same batch says in full what it died of.
        raise DeviceError(
            f"batch {asked.spec.batch_size} runs on no card: {type(error).__name__}: {error}",
            hint="bsprobe run says more",
        ) from error


def _describe(error: Exception, phase: str) -> tuple[Outcome, Failure]:
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
    package = Path(__file__).resolve().parent.parent
    for folder in sorted({str(package), *sys.path} - {""}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text


if __name__ == "__main__":
    main()
