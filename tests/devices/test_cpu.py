"""The CPU device: real steps and a real out-of-memory, in real workers."""

import sys
from collections.abc import Iterator

import pytest

from bsprobe.records.errors import DeviceError
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.worker.process import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")

VARIANT = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=64))
LIMIT = DeviceRequest(device="cpu", memory_limit_bytes=700 * MIB)


def ignore(phase: str) -> None:
    """Progress is of no interest here."""


@pytest.fixture
def worker() -> Iterator[Worker]:
    opened = Worker(LIMIT)
    yield opened
    opened.close()


def test_trials_measure_their_peak_and_run_out_of_memory_for_real(worker: Worker) -> None:
    device = worker.ready.device
    assert (device.kind, device.capacity_bytes, device.limit_bytes) == (
        "cpu",
        700 * MIB,
        700 * MIB,
    )
    one, two = (
        worker.run(TrialSpec(variant=VARIANT, batch_size=size), timeout=120, on_phase=ignore)
        for size in (2, 8)
    )
    assert (one.outcome, two.outcome) == (Outcome.FITS, Outcome.FITS)
    assert one.measurement is not None
    assert two.measurement is not None
    # 23.9 million parameters in fp32, with gradients and momentum, are the least it can be.
    assert one.measurement.peak_bytes > 23_900_000 * 4 * 3
    assert one.measurement.peak_bytes < two.measurement.peak_bytes < 700 * MIB
    assert (one.measurement.updates_applied, len(one.measurement.step_seconds)) == (4, 3)
    too_much = worker.run(TrialSpec(variant=VARIANT, batch_size=64), timeout=120, on_phase=ignore)
    assert too_much.outcome is Outcome.OUT_OF_MEMORY
    assert too_much.failure is not None
    assert "can't allocate memory" in too_much.failure.message


def test_a_limit_too_small_for_the_network_is_out_of_memory_not_a_crash() -> None:
    worker = Worker(DeviceRequest(device="cpu", memory_limit_bytes=64 * MIB))
    try:
        done = worker.run(TrialSpec(variant=VARIANT, batch_size=1), timeout=120, on_phase=ignore)
    finally:
        worker.close()
    assert done.outcome is Outcome.OUT_OF_MEMORY
    assert done.failure is not None
    assert done.failure.phase == "building"


@pytest.mark.parametrize(
    ("limit", "message"),
    [(MIB, "leaves no room for any network"), (2**50, "that this machine has available")],
)
def test_an_impossible_limit_is_refused(limit: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Worker(DeviceRequest(device="cpu", memory_limit_bytes=limit))
