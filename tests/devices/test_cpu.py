"""The CPU device in worker processes: measured peaks, and trials that run out of memory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bsprobe.records.errors import DeviceError
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import TrialDone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA of Linux")

VARIANT = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=64))


@contextmanager
def opened(limit: int) -> Iterator[Worker]:
    worker = Worker(DeviceRequest(device="cpu", memory_limit_bytes=limit))
    try:
        yield worker
    finally:
        worker.close()


def run(worker: Worker, batch: int) -> TrialDone:
    spec = TrialSpec(variant=VARIANT, batch_size=batch)
    return worker.run(spec, timeout=120, on_phase=lambda _: None)


def test_trials_measure_their_peak_and_run_out_of_memory() -> None:
    with opened(700 * MIB) as worker:
        device = worker.ready.device
        one, four, too_much = (run(worker, size) for size in (1, 4, 64))
    limits = (device.kind, device.capacity_bytes, device.limit_bytes)
    assert limits == ("cpu", 700 * MIB, 700 * MIB)
    assert (one.outcome, four.outcome) == (Outcome.FITS, Outcome.FITS)
    assert one.measurement is not None
    assert four.measurement is not None
    # At least 23.9 million parameters in fp32, with gradients and momentum.
    assert one.measurement.peak_bytes > 23_900_000 * 4 * 3
    assert one.measurement.peak_bytes < four.measurement.peak_bytes < 700 * MIB
    assert (one.measurement.updates_applied, len(one.measurement.step_seconds)) == (4, 3)
    assert too_much.outcome is Outcome.OUT_OF_MEMORY
    assert too_much.failure is not None
    assert "can't allocate memory" in too_much.failure.message


def test_a_limit_too_small_for_the_network_is_out_of_memory_not_a_crash() -> None:
    with opened(64 * MIB) as worker:
        done = run(worker, 1)
    assert done.outcome is Outcome.OUT_OF_MEMORY
    assert done.failure is not None
    assert done.failure.phase == "building"


@pytest.mark.parametrize(
    ("limit", "message"),
    [(MIB, "1 MiB leaves no room"), (2**50, "is more than")],
)
def test_an_impossible_limit_is_refused(limit: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Worker(DeviceRequest(device="cpu", memory_limit_bytes=limit))
