"""The steps that a script must make, and the measurement of those that it made."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from bsprobe.analysis.growth import MOST_STEPS, is_growing, noise_bytes
from bsprobe.devices.settling import MOST_UNSETTLED
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.trials import Measurement, ModelFacts, Peak, TrialSpec
from bsprobe.worker.script.outside import Outside
from bsprobe.worker.script.seen import Memory, Seen, training_of

_LEAST_SECONDS: Final = 1.0
"""Time of the measured steps at least; on a CPU, shorter ones say little of the throughput."""


def wanted_steps(spec: TrialSpec) -> int:
    """Return the optimizer steps after which a script is stopped."""
    return spec.warmup_steps + spec.measured_steps


def fewest_steps(seen: Sequence[Seen]) -> int:
    """Return the steps of the rank that made the fewest; 0 until all ranks have made one."""
    training = training_of(seen)
    if not training or len(training) < training[0].steps[-1].world:
        return 0
    return min(each.steps[-1].step for each in training)


def has_enough(seen: Sequence[Seen], spec: TrialSpec, kind: DeviceKind) -> bool:
    """Return whether a script has made its steps.

    As a trial of a network it makes more while the allocator flushes its cache in every step, and
    while its memory seems to grow.

    Args:
        seen: The records of its processes.
        spec: The trial.
        kind: The kind of device.
    """
    made = fewest_steps(seen)
    if made < wanted_steps(spec):
        return False
    training = [each.steps for each in training_of(seen)]
    if kind is DeviceKind.CPU and _timed_seconds(training, spec) < _LEAST_SECONDS:
        return made >= MOST_STEPS
    flushes = any(len(steps) > 1 and steps[-1].retries > steps[-2].retries for steps in training)
    grows = any(is_growing(ends_of(steps), noise_bytes(kind)) for steps in training)
    return not (flushes and made < MOST_UNSETTLED) and not (grows and made < MOST_STEPS)


def _timed_seconds(training: Sequence[Sequence[Memory]], spec: TrialSpec) -> float:
    """The time since the end of the warm-up, of the rank with the least."""
    warm = spec.warmup_steps
    return min(steps[-1].time - steps[min(warm, len(steps)) - 1].time for steps in training)


def ends_of(steps: Sequence[Memory]) -> tuple[int, ...]:
    """Return the bytes that were allocated at the end of each step."""
    return tuple(step.held for step in steps)


def measured(seen: Sequence[Seen], outside: Outside, spec: TrialSpec) -> Measurement:
    """Return the measurement of the weakest process: the one that took the most memory.

    Args:
        seen: The records of the processes.
        outside: Their memory as seen from outside.
        spec: The trial.
    """
    training = training_of(seen)
    if not training:
        return _from_outside(outside)
    weakest = max(training, key=_peak_bytes)
    steps, last = weakest.steps, weakest.last or weakest.steps[-1]
    seconds = _seconds(training, spec)
    images = spec.batch_size * spec.accumulation_steps * steps[-1].world
    ends = ends_of(steps)
    is_level = len(ends) >= MOST_STEPS or not is_growing(ends, noise_bytes(_kind(last)))
    return Measurement(
        model=ModelFacts(parameters=max(step.parameters for step in steps), groups=()),
        first_step=_peak(steps[0]),
        steady=_peak(last),
        outside_allocator_bytes=_outside_bytes(last, outside),
        allocator_retries=max(each.last.retries for each in training if each.last),
        allocator_ooms=max(each.last.ooms for each in training if each.last),
        updates_applied=steps[-1].step,
        steps=steps[-1].step,
        # Too few steps cannot tell growth from the first steps of a program.
        allocated_after_steps=ends if is_level else (),
        step_seconds=seconds,
        images_per_second=images / statistics.mean(seconds) if seconds else None,
    )


def _from_outside(outside: Outside) -> Measurement:
    """The measurement of processes that were not seen to step."""
    peak = Peak(allocated_bytes=outside.resident_bytes, reserved_bytes=None)
    unused = outside.unused_bytes
    if outside.gpu_bytes is not None:
        peak, unused = Peak(allocated_bytes=outside.gpu_bytes, reserved_bytes=None), 0
    return Measurement(
        model=ModelFacts(parameters=0, groups=()),
        first_step=peak,
        steady=peak,
        outside_allocator_bytes=unused,
        updates_applied=0,
        steps=0,
    )


def _peak_bytes(seen: Seen) -> int:
    last = seen.last
    assert last is not None  # noqa: S101 - it has stepped
    return _peak(last).held_bytes + last.unused


def _peak(memory: Memory) -> Peak:
    return Peak(allocated_bytes=memory.allocated, reserved_bytes=memory.reserved)


def _kind(memory: Memory) -> DeviceKind:
    return DeviceKind.CUDA if memory.device.startswith("cuda") else DeviceKind.CPU


def _outside_bytes(last: Memory, outside: Outside) -> int:
    """Bytes beside PyTorch's allocator: by the record on a CPU, by NVML on a GPU."""
    if _kind(last) is DeviceKind.CPU:
        return last.unused
    return max(0, (outside.gpu_bytes or 0) - (last.reserved or 0))


def _seconds(training: Sequence[Seen], spec: TrialSpec) -> tuple[float, ...]:
    """The time of a step after the warm-up, of the slowest rank.

    On a CPU the means of equal parts of the steps. On a GPU one mean: the host does not wait for
    each step.
    """
    found = [_seconds_of(each, spec) for each in training]
    return max(found, key=lambda seconds: statistics.mean(seconds) if seconds else 0.0)


def _seconds_of(seen: Seen, spec: TrialSpec) -> tuple[float, ...]:
    times = {each.step: each.time for each in seen.steps if spec.warmup_steps <= each.step}
    first, last = min(times, default=0), max(times, default=0)
    if last <= first or first != spec.warmup_steps:
        return ()
    if _kind(seen.steps[-1]) is DeviceKind.CUDA:
        last = min(last, wanted_steps(spec))  # after which the hook waited for the GPU
        return ((times[last] - times[first]) / (last - first),)
    # As many times as the trial has measured steps, whatever number was made.
    parts = min(spec.measured_steps, last - first)
    ends = [first + (last - first) * part // parts for part in range(parts + 1)]
    return tuple(
        (times[end] - times[start]) / (end - start)
        for start, end in pairwise(ends)
        if start in times and end in times
    )
