"""The command line on a machine with a GPU: `python disguised_gpu.py run --search guided …`.

The GPU is a simulated one in disguise. What "measures" and what predicts are processes of their
own, as they are on a real one, and everything but the GPU is real. Between the two lies what the
disguise adds outside the allocator, as a context that is larger than the catalogue says would.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsprobe.devices.base import ReportPhase
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.errors import DeviceError
from bsprobe.gpus import find_gpu
from bsprobe.records import DeviceInfo, DeviceRequest
from bsprobe.trials import Measurement, Source, TrialSpec

AS_WORKER = "as-worker"
NAME = "NVIDIA GeForce RTX 3090"


class DisguisedGpu:
    """Says that it measures what it simulates.

    Args:
        request: As for a real device.
        added_bytes: What its context takes above the catalogue's figure.
    """

    def __init__(self, request: DeviceRequest, added_bytes: int) -> None:
        card = find_gpu(NAME)
        card = replace(card, outside_allocator_bytes=card.outside_allocator_bytes + added_bytes)
        self._device = SimulatedDevice(card, request.memory_limit_bytes)

    @property
    def info(self) -> DeviceInfo:
        return replace(self._device.info, kind="cuda", name=NAME, source=Source.MEASURED, notes=())

    @property
    def budget_bytes(self) -> int | None:
        return None

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            raise DeviceError("this GPU cannot be seen", hint="do not hide it")
        return replace(self._device.run_trial(spec, report), step_seconds=(0.5, 0.5, 0.5))

    def lift_limit(self) -> None:
        self._device.lift_limit()

    def is_clean(self) -> bool:
        return True


def _serve(added_bytes: int) -> None:
    """Be the worker of the disguised GPU."""
    from bsprobe import worker  # noqa: PLC0415 - only the child needs it

    def open_device(request: DeviceRequest) -> DisguisedGpu:
        return DisguisedGpu(request, added_bytes)

    worker.open_device = open_device  # type: ignore[attr-defined] # the one seam: which device it is
    worker.main()


def _main() -> None:
    """Be the parent: what is asked for without a card's name is the GPU of this machine."""
    from bsprobe import __main__, worker_process  # noqa: PLC0415 - only the parent needs it

    gpu = (sys.executable, str(Path(__file__)), AS_WORKER, os.environ["ADDED_BYTES"])

    class Worker(worker_process.Worker):
        def __init__(self, request: DeviceRequest, **options: Any) -> None:
            super().__init__(request, command=gpu if request.gpu is None else None, **options)

    worker_process.Worker = Worker  # type: ignore[misc] # the one seam: which program is started
    __main__.main()


if __name__ == "__main__":
    if sys.argv[1] == AS_WORKER:
        _serve(int(sys.argv[2]))
    else:
        _main()
