"""Memory and throughput of two runs at equal trials, and the noise of equal trials.

Two searches may have tried different batches, so figures are compared only if variant, batch and
accumulation are the same on both sides.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bsprobe.analysis.thresholds import Metric
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import DeviceInfo, Run
from bsprobe.records.trials import Measurement, Purpose, Source
from bsprobe.records.units import MIB
from bsprobe.records.variants import Variant

_CPU_MEMORY_NOISE_BYTES = 8 * MIB
"""Equal trials on the CPU differed by up to 6 MiB in `benchmarks/repeatability.py`."""
_CUDA_SEGMENT_BYTES = 20 * MIB
"""The size of the segments for blocks below 10 MiB (kLargeBuffer in PyTorch's
c10/cuda/CUDACachingAllocator.cpp): equal trials may differ by one segment."""

Trials = Mapping[tuple[int, int], Sequence[Measurement]]
"""Measurements in the order they were made, by (micro-batch, accumulation steps)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A metric on both sides."""

    at: str = ""
    """The batch of the figures."""
    baseline: float
    run: float
    noise: float = 0.0
    """The difference that equal trials may have."""


def trials_of(run: Run, variant: Variant) -> Trials:
    """Return the trials of a variant that ran."""
    found: dict[tuple[int, int], list[Measurement]] = {}
    for trial in run.trials:
        if (
            trial.spec.variant == variant
            and trial.measurement is not None
            and trial.purpose is not Purpose.COMPARISON
        ):
            key = (trial.spec.batch_size, trial.spec.accumulation_steps)
            found.setdefault(key, []).append(trial.measurement)
    return found


def has_figure(trials: Trials, metric: Metric) -> bool:
    """Return whether the trials of one run have a figure of a metric."""
    if metric is Metric.MEMORY_PER_IMAGE:
        return len(_batches(trials)) > 1
    return any(_value(m, metric) is not None for equal in trials.values() for m in equal)


def figures(old: Trials, new: Trials, metric: Metric, device: DeviceInfo) -> tuple[Figures, ...]:
    """Return the metric at each trial that both runs made; throughput at the largest only.

    Args:
        old: Trials of the baseline.
        new: Trials of the run.
        metric: Any metric but the batches.
        device: The device of both.
    """
    if metric is Metric.MEMORY_PER_IMAGE:
        return _slopes(old, new, device)
    keys = sorted(old.keys() & new.keys(), key=lambda key: (key[0] * key[1], key[0]))
    if metric is Metric.THROUGHPUT:
        # The largest trial is the least noisy. The worst of many noisy ratios would be a
        # regression now and then by chance.
        keys = [key for key in keys if _is_timed(old, key) and _is_timed(new, key)][-1:]
    found = [_at(key, old[key], new[key], metric, device) for key in keys]
    return tuple(one for one in found if one is not None)


def step_noise(seconds: Sequence[float]) -> float:
    """Return the share by which the median step exceeds the fastest, as other load makes it."""
    middle = statistics.median(seconds)
    return (middle - min(seconds)) / middle


def _at(
    key: tuple[int, int],
    old: Sequence[Measurement],
    new: Sequence[Measurement],
    metric: Metric,
    device: DeviceInfo,
) -> Figures | None:
    """The metric at one trial, which either run may have made more than once.

    The largest of equal trials counts: the largest peak has to fit, and other load only lowers
    throughput.
    """
    before = [value for m in old if (value := _value(m, metric)) is not None]
    now = [value for m in new if (value := _value(m, metric)) is not None]
    if not before or not now:
        return None
    batch, steps = key
    noise = 0.0
    if device.source is Source.MEASURED:
        repeated = max(max(values) - min(values) for values in (before, now))
        noise = max(repeated, _memory_noise(device, metric))
        if metric is Metric.THROUGHPUT:
            shares = [step_noise(m.step_seconds) for m in (*old, *new) if m.step_seconds]
            noise = max(repeated, max(shares, default=0.0) * max(before))
    return Figures(
        at=str(batch) if steps == 1 else f"{batch} x {steps}",
        baseline=max(before),
        run=max(now),
        noise=noise,
    )


def _is_timed(trials: Trials, key: tuple[int, int]) -> bool:
    """Return whether a trial was timed for all steps, not only for one to measure memory."""
    most = max(len(m.step_seconds) for equal in trials.values() for m in equal)
    return any(len(m.step_seconds) == most for m in trials[key])


def _slopes(old: Trials, new: Trials, device: DeviceInfo) -> tuple[Figures, ...]:
    """Allocated bytes per image, from the smallest to the largest batch that both ran."""
    common = sorted(_batches(old) & _batches(new))
    if len(common) < 2:  # noqa: PLR2004 - a slope takes two points
        return ()
    low, high = common[0], common[-1]

    def slope(trials: Trials) -> float:
        ends = (max(m.peak_allocated_bytes for m in trials[batch, 1]) for batch in (high, low))
        return (next(ends) - next(ends)) / (high - low)

    noise = 2 * _memory_noise(device, Metric.PEAK_ALLOCATED) / (high - low)
    return (Figures(at=f"{low} to {high}", baseline=slope(old), run=slope(new), noise=noise),)


def _batches(trials: Trials) -> set[int]:
    """The batches that ran without accumulation."""
    return {batch for batch, steps in trials if steps == 1}


def _value(measured: Measurement, metric: Metric) -> float | None:
    if metric is Metric.PEAK:
        return measured.peak_bytes
    if metric is Metric.PEAK_ALLOCATED:
        return measured.peak_allocated_bytes
    if metric is Metric.PEAK_RESERVED:
        return measured.peak_reserved_bytes
    return measured.images_per_second


def _memory_noise(device: DeviceInfo, metric: Metric) -> float:
    """The least noise of equal trials; on CUDA allocations are the same each time."""
    if device.kind is DeviceKind.CPU:
        return _CPU_MEMORY_NOISE_BYTES
    return 0.0 if metric is Metric.PEAK_ALLOCATED else _CUDA_SEGMENT_BYTES
