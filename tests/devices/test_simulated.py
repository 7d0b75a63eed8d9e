"""The simulated device: predicted trials, out of memory, limits and notes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.devices.simulated import SimulatedDevice, Tracers
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError
from bsprobe.records.failures import Outcome, classify
from bsprobe.records.gpus import Gpu, custom_gpu, find_gpu
from bsprobe.records.trials import Measurement, Source, TrialSpec, Validation
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import CudnnBenchmark, Norm, Precision, Variant
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError

SMALL = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=128))
CARD = custom_gpu(2 * GIB, "8.6", 300 * MIB)
TRACERS = Tracers()
"""Tracers shared by all tests, so that the last traced step is reused."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


def predict(
    variant: Variant, batch: int, *, gpu: Gpu = CARD, limit: int | None = None, **more: Any
) -> Measurement:
    spec = TrialSpec(variant=variant, batch_size=batch, **more)
    return SimulatedDevice(gpu, limit, tracers=TRACERS).run_trial(spec, lambda _: None)


def test_a_prediction_has_everything_but_times() -> None:
    found = predict(SMALL, 2)
    assert found == replace(
        found,
        validation=None,
        evaluation=None,
        outside_allocator_bytes=300 * MIB,
        other_processes_bytes=0,
        allocator_retries=0,
        allocator_ooms=0,
        updates_applied=4,
        steps=4,
        step_seconds=(),
        images_per_second=None,
        loader_images_per_second=None,
    )
    names = [name for name, _ in found.model.groups]
    assert names == ["backbone", "classifier weights", "classifier biases"]
    # Later steps also hold the optimizer's momentum.
    assert found.steady.allocated_bytes > found.first_step.allocated_bytes
    assert found.first_step.reserved_bytes is not None
    assert found.first_step.allocated_bytes < found.first_step.reserved_bytes


def test_a_batch_that_needs_more_than_the_card_has_is_out_of_memory() -> None:
    needed = predict(SMALL, 8)
    enough = custom_gpu(needed.peak_bytes, "8.6", 300 * MIB)
    scarce = custom_gpu(needed.peak_allocated_bytes + 300 * MIB - 1, "8.6", 300 * MIB)
    assert predict(SMALL, 8, gpu=enough) == needed
    with pytest.raises(SimulatedOutOfMemoryError) as refused:
        predict(SMALL, 8, gpu=scarce)
    names = [kind.__name__ for kind in type(refused.value).__mro__]
    verdict = classify(DeviceKind.SIMULATED, types=names, message=str(refused.value))
    assert verdict.outcome is Outcome.OUT_OF_MEMORY


def test_a_limit_is_the_capacity_of_a_smaller_card() -> None:
    info = SimulatedDevice(CARD, GIB).info
    assert (info.total_bytes, info.capacity_bytes, info.limit_bytes) == (2 * GIB, GIB, GIB)
    with pytest.raises(SimulatedOutOfMemoryError):
        predict(SMALL, 16, limit=GIB)


def test_just_below_its_peak_a_trial_runs_with_retries() -> None:
    """A flush of the cache makes room, because less is allocated than reserved."""
    found = predict(SMALL, 8)
    assert found.peak_reserved_bytes is not None
    tight = custom_gpu(found.peak_bytes - 2 * MIB, "8.6", 300 * MIB)
    again = predict(SMALL, 8, gpu=tight)
    assert again.allocator_retries > 0
    assert again.peak_bytes <= tight.total_bytes


def test_a_later_step_out_of_memory_is_found_by_trials_of_any_length() -> None:
    """The first two steps run with retries; the third runs out of memory."""
    variant = Variant(model="deeplabv2-mini", resolution=Resolution(height=256, width=512))
    gpu = find_gpu("H100 80GB")
    predict(variant, 7, gpu=gpu, limit=1280 * MIB, measured_steps=1)
    for steps in (1, 3, 60):
        with pytest.raises(SimulatedOutOfMemoryError):
            predict(variant, 8, gpu=gpu, limit=1280 * MIB, measured_steps=steps)
    spec = TrialSpec(variant=variant, batch_size=8)
    assert not SimulatedDevice(gpu, 1280 * MIB).explain(spec, lambda _: None, None).fits


def test_accumulation_keeps_the_gradients_through_the_forward_pass() -> None:
    alone, twice = predict(SMALL, 4), predict(SMALL, 4, accumulation_steps=2)
    parameters = 4 * alone.model.parameters
    added = twice.steady.allocated_bytes - alone.steady.allocated_bytes
    assert 0.5 * parameters < added < 1.01 * parameters  # the peak had some of them before
    assert predict(SMALL, 4, accumulation_steps=3) == predict(SMALL, 4, accumulation_steps=7)


FULL = Resolution(height=1024, width=2048)


def test_a_validation_has_its_own_peak_and_changes_no_other() -> None:
    card = find_gpu("RTX 3090")
    found = predict(SMALL, 1, gpu=card, validation=Validation(resolution=FULL))
    assert replace(found, validation=None) == predict(SMALL, 1, gpu=card)
    assert found.validation is not None
    assert found.validation.peak is not None
    # At least the logits of 19 classes at 1024x2048 in fp32.
    assert found.validation.peak.allocated_bytes > 19 * 1024 * 2048 * 4


def test_a_validation_that_does_not_fit_is_part_of_a_trial_that_ran() -> None:
    limit = find_gpu("RTX 3090").outside_allocator_bytes + 700 * MIB
    device = SimulatedDevice(find_gpu("RTX 3090"), limit)
    asked = Validation(resolution=FULL, batch_size=64)
    found = device.run_trial(
        TrialSpec(variant=SMALL, batch_size=1, validation=asked), lambda _: None
    )
    assert found.allocator_ooms == 0
    tried = found.validation
    assert tried is not None
    assert (tried.fits, tried.peak, tried.outcome) == (False, None, Outcome.OUT_OF_MEMORY)
    assert tried.failure is not None
    assert tried.failure.phase == "validation"


def test_a_validation_that_makes_the_allocator_empty_its_cache_fits_with_retries() -> None:
    card = find_gpu("RTX 3090")
    free = predict(SMALL, 8, gpu=card, validation=Validation(resolution=FULL))
    assert free.validation is not None
    peak = free.validation.peak_bytes(free.outside_allocator_bytes)
    assert peak is not None
    asked = Validation(resolution=FULL)
    tight = predict(SMALL, 8, gpu=card, limit=peak - 2 * MIB, validation=asked)
    assert tight.allocator_retries == 0
    assert tight.validation is not None
    assert (tight.validation.outcome, tight.validation.fits) == (Outcome.FITS_WITH_RETRIES, True)


def test_what_training_leaves_reserved_counts_in_the_validation() -> None:
    """A small validation beside a large training batch takes no new memory."""
    few = Validation(resolution=Resolution(height=64, width=64))
    found = predict(SMALL, 8, validation=few)
    assert found.validation is not None
    assert found.validation.peak is not None
    assert found.validation.peak.reserved_bytes == found.peak_reserved_bytes


@pytest.mark.nightly
def test_autocast_takes_less_with_batch_norm_and_more_with_plain_group_norm() -> None:
    def per_image(precision: Precision, norm: Norm) -> int:
        variant = replace(SMALL, precision=precision, norm=norm)
        four, eight = (predict(variant, batch).peak_allocated_bytes for batch in (4, 8))
        return eight - four

    batch, group = (per_image(Precision.FP32, norm) for norm in (Norm.BATCH, Norm.GROUP))
    assert per_image(Precision.AMP_FP16, Norm.BATCH) < 0.6 * batch
    assert per_image(Precision.AMP_FP16, Norm.GROUP) > group
    assert per_image(Precision.AMP_FP16, Norm.GROUP_AMP) < 0.6 * group


def test_timing_plans_takes_more_in_the_first_step() -> None:
    # At smaller batches other block sizes and rounding hide the difference.
    timed = predict(replace(SMALL, cudnn_benchmark=CudnnBenchmark.ON), 8)
    assert timed.first_step.allocated_bytes > predict(SMALL, 8).first_step.allocated_bytes


def test_pytorchs_setting_of_expandable_segments_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = predict(SMALL, 4)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    expandable = predict(SMALL, 4)
    assert expandable.peak_allocated_bytes <= plain.peak_allocated_bytes
    assert expandable.peak_reserved_bytes != plain.peak_reserved_bytes


def test_the_info_of_a_card_is_marked_as_predicted() -> None:
    info = SimulatedDevice(find_gpu("RTX 4090"), None).info
    assert (info.kind, info.source, info.compute_capability, info.tf32_convolutions) == (
        "simulated",
        Source.PREDICTED,
        "8.9",
        True,
    )
    assert "allocator" in info.notes[0]
    assert SimulatedDevice(find_gpu("Tesla T4"), None).info.tf32_convolutions is False


def test_a_card_that_new_builds_of_pytorch_do_not_support_has_a_note() -> None:
    said = {
        name: [note for note in SimulatedDevice(find_gpu(name), None).info.notes if "12.6" in note]
        for name in ("GTX 1080 Ti", "P100", "V100-SXM2-16GB")
    }
    assert [len(notes) for notes in said.values()] == [1, 1, 0]
    assert "compute capability 6.1" in said["GTX 1080 Ti"][0]
    assert "no tensor cores" in said["P100"][0]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (3 * GIB, "3.00 GiB is more than the 2.00 GiB"),
        (300 * MIB, "300 MiB is used up"),
    ],
)
def test_impossible_limits_are_refused(limit: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        SimulatedDevice(CARD, limit)


@pytest.mark.parametrize("steps", [1, 3])
def test_one_of_several_processes_holds_its_gradients_twice(steps: int) -> None:
    alone, together = (
        predict(SMALL, 2, gpu=find_gpu("RTX 3090"), accumulation_steps=steps, processes=each)
        for each in (1, 4)
    )
    gradients = 4 * alone.model.parameters
    beside = together.steady.allocated_bytes - alone.steady.allocated_bytes
    assert 0.99 * gradients < beside < 1.05 * gradients  # with unsplit remainders of blocks
    assert together.outside_allocator_bytes == alone.outside_allocator_bytes + 688 * MIB
    assert together.model == alone.model


@pytest.mark.nightly
def test_shared_statistics_take_next_to_nothing_beside_batch_norms() -> None:
    batch, sync = (
        predict(replace(SMALL, norm=norm), 32, gpu=find_gpu("RTX 3090"), processes=8)
        for norm in (Norm.BATCH, Norm.SYNC_BATCH)
    )
    assert 0 < abs(sync.peak_allocated_bytes - batch.peak_allocated_bytes) < MIB
