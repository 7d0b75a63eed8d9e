"""Memory that grows from step to step, by the bytes that are held at the end of each step.

Peaks do not show it: they move with the first step and with cuDNN's benchmark mode.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.growth import Growth
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, Source, Trial
from bsprobe.records.units import MIB

MOST_STEPS: Final = 24
"""Steps after which memory that still grows is called growing. Programs that keep the tensors of
their last few steps stop to grow before."""
_CPU_NOISE_BYTES: Final = 8 * MIB
"""Resident memory differs by so much between the ends of equal steps."""
_FEWEST_ENDS: Final = 3


def noise_bytes(kind: DeviceKind) -> int:
    """Return the bytes by which the ends of equal steps differ on a kind of device.

    PyTorch's allocator counts exactly. The CPU has no such allocator.
    """
    return _CPU_NOISE_BYTES if kind is DeviceKind.CPU else 0


def is_growing(ends: Sequence[int], noise: int) -> bool:
    """Return whether the bytes at the ends of steps grow, as far as these steps show it.

    The medians of the first, the middle and the last third must rise: memory that is allocated
    once, in whatever step, leaves two of them equal. All of the last third must exceed all of the
    first: values that go up and down do not.

    Args:
        ends: Bytes at the end of each step, from the first optimizer update on.
        noise: As `noise_bytes` returns it.
    """
    if len(ends) < _FEWEST_ENDS:
        return len(ends) > 1 and ends[-1] - ends[0] > noise
    third = len(ends) // 3
    first, middle, last = ends[:third], ends[third:-third], ends[-third:]
    low, middle_bytes, high = map(statistics.median_low, (first, middle, last))
    return low < middle_bytes < high and min(last) - max(first) > noise


def growth_of(trial: Trial, device: DeviceInfo) -> Growth | None:
    """Return the growth of memory in a trial; None if there is none.

    A prediction knows whether its steps repeat. Those that do take no more in later steps.

    Args:
        trial: A trial.
        device: Its device.
    """
    measured = trial.measurement
    if measured is None or not _may_grow(trial.source, measured):
        return None
    ends = _after_first_update(measured)
    if len(ends) < _FEWEST_ENDS or not is_growing(ends, noise_bytes(device.kind)):
        return None
    half = len(ends) // 2
    per_step = max(1, round((ends[-1] - ends[-1 - half]) / half))
    inside = measured.steady.held_bytes
    left = max(0, device.capacity_bytes - measured.outside_allocator_bytes - inside)
    return Growth(
        batch=trial.spec.batch_size,
        bytes_per_step=per_step,
        steps=measured.steps,
        full_at_step=measured.steps + left // per_step + 1,
    )


def growth_in(trials: Iterable[Trial], device: DeviceInfo) -> tuple[Growth, ...]:
    """Return the growth at the smallest and at the largest batch that grows; empty if none does.

    Args:
        trials: Trials of one variant, without accumulation.
        device: Their device.
    """
    found = {growth.batch: growth for each in trials if (growth := growth_of(each, device))}
    return tuple(found[batch] for batch in sorted({min(found), max(found)})) if found else ()


def is_known_not_to_grow(trials: Iterable[Trial], device: DeviceInfo) -> bool:
    """Return whether trials show that memory stays the same; older files do not say.

    Args:
        trials: Trials of one variant, without accumulation.
        device: Their device.
    """
    said = [each for each in trials if each.measurement and each.measurement.allocated_after_steps]
    return bool(said) and not growth_in(said, device)


def _may_grow(source: Source, measured: Measurement) -> bool:
    return source is Source.MEASURED or Assumption.STILL_GROWING in measured.model.assumptions


def _after_first_update(measured: Measurement) -> tuple[int, ...]:
    """The ends of the steps from the first update on, which makes the optimizer's state.

    A GradScaler skips the updates before it.
    """
    skipped = max(0, measured.steps - measured.updates_applied)
    return measured.allocated_after_steps[skipped:]
