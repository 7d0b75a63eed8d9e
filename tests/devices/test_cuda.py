"""The CUDA device, on a machine with a GPU: `pytest -m gpu`."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bsprobe.records.errors import DeviceError
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import TrialSpec, Validation
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import MemoryFormat, Norm, Precision, Variant
from bsprobe.training.models.norms import LAYERS
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import TrialDone
from tests.support.recorded_peaks import stays_within

pytestmark = pytest.mark.gpu

VARIANT = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=128, width=256))
LIMIT = 4 * GIB


def run(worker: Worker, spec: TrialSpec) -> TrialDone:
    return worker.run(spec, timeout=300, on_phase=lambda _: None)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    opened = Worker(DeviceRequest(device="cuda"))
    yield opened
    opened.close()


@pytest.mark.parametrize("memory_format", MemoryFormat)
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("norm", LAYERS)
def test_every_variant_runs_and_is_measured(
    worker: Worker, norm: Norm, precision: Precision, memory_format: MemoryFormat
) -> None:
    variant = replace(VARIANT, norm=norm, precision=precision, memory_format=memory_format)
    done = run(worker, TrialSpec(variant=variant, batch_size=2))
    assert done.outcome is Outcome.FITS, done.failure
    measured = done.measurement
    assert measured is not None
    assert measured.updates_applied >= 2
    assert len(measured.step_seconds) == 3
    # At least 23.9 million parameters in fp32, with gradients and momentum.
    assert measured.peak_allocated_bytes > 23_900_000 * 4 * 3
    assert (measured.peak_reserved_bytes or 0) >= measured.peak_allocated_bytes
    assert 50 * MIB < measured.outside_allocator_bytes < 4 * GIB
    assert done.clean


def test_a_validation_at_full_resolution_is_measured_apart(worker: Worker) -> None:
    size = Resolution(height=1024, width=2048)
    asked = Validation(resolution=size)
    done = run(worker, TrialSpec(variant=VARIANT, batch_size=1, validation=asked))
    assert done.measurement is not None
    assert done.measurement.validation is not None
    peak = done.measurement.validation.peak
    assert peak is not None
    # 19 fp32 logits per pixel, at the size of the labels.
    assert peak.allocated_bytes > 19 * 4 * 1024 * 2048


def test_a_capped_gpu_runs_out_of_memory_within_its_limit() -> None:
    worker = Worker(DeviceRequest(device="cuda", memory_limit_bytes=LIMIT))
    try:
        fits = run(worker, TrialSpec(variant=VARIANT, batch_size=2))
        fails = run(worker, TrialSpec(variant=VARIANT, batch_size=512))
    finally:
        worker.close()
    assert worker.ready.device.capacity_bytes == LIMIT
    assert fits.measurement is not None
    assert stays_within(LIMIT, fits.measurement)
    assert fails.outcome is Outcome.OUT_OF_MEMORY
    assert fails.failure is not None
    assert "out of memory" in fails.failure.message


def test_a_limit_larger_than_the_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="is more than"):
        Worker(DeviceRequest(device="cuda", memory_limit_bytes=2**50))


def test_an_index_without_a_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="no GPU 99"):
        Worker(DeviceRequest(device="cuda:99"))
