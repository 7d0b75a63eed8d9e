"""Memory that grows from step to step is told from memory that is allocated once."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bsprobe.analysis.growth import growth_in, growth_of, is_growing, is_known_not_to_grow
from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.growth import Growth
from bsprobe.records.trials import Source, Trial
from bsprobe.records.units import GIB, MIB
from tests.support.builders import DEVICE, broke, ran

STEADY = [100] * 24
LINE = [100 + 7 * step for step in range(24)]


def with_ends(ends: Sequence[int], batch: int = 4, peak_bytes: int = 8 * GIB) -> Trial:
    trial = ran(batch, peak_bytes)
    assert trial.measurement is not None
    measured = replace(
        trial.measurement,
        allocated_after_steps=tuple(ends),
        steps=len(ends),
        updates_applied=len(ends),
    )
    return replace(trial, measurement=measured)


@pytest.mark.parametrize(
    ("ends", "grows"),
    [
        (LINE, True),
        ([100 + 7 * (step // 5) for step in range(24)], True),  # one tensor in five steps
        ([100 + 7 * step + 30 * (step % 2) for step in range(24)], True),
        (LINE[:4], True),
        (LINE[:2], True),  # more steps will tell
        (STEADY, False),
        (STEADY[:1], False),
        ([], False),
        ([*[100] * 5, *[900] * 19], False),  # once, in the sixth step
        ([*[100] * 12, *[900] * 12], False),  # once, in the middle
        ([100, *[900] * 23], False),
        ([100, 200, 300, 400, *[500] * 20], False),  # the last five outputs
        ([100 + 50 * (step % 2) for step in range(24)], False),
        ([100, 180, 120, 160, 130, 170, 110, 150, 140], False),  # sizes that depend on values
        (list(reversed(LINE)), False),
    ],
)
def test_only_memory_that_keeps_rising_grows(ends: list[int], *, grows: bool) -> None:
    assert is_growing(ends, 0) is grows


def test_growth_must_exceed_the_noise() -> None:
    rise = LINE[16] - LINE[7]  # from the end of the first third to the beginning of the last
    assert (is_growing(LINE, rise - 1), is_growing(LINE, rise)) == (True, False)


def test_growth_has_its_bytes_a_step_and_the_step_at_which_the_memory_is_full() -> None:
    # 20 GiB of which 8 are used after 24 steps; 300 MiB a step fill 12 GiB in 40.96 steps.
    trial = with_ends([GIB + 300 * MIB * step for step in range(24)])
    expected = Growth(batch=4, bytes_per_step=300 * MIB, steps=24, full_at_step=24 + 40 + 1)
    assert growth_of(trial, DEVICE) == expected


def test_steps_before_the_first_update_and_failed_trials_say_nothing() -> None:
    trial = with_ends([100, 200, 300, 400, *[500] * 8])
    measured = trial.measurement
    assert measured is not None
    skipping = replace(trial, measurement=replace(measured, updates_applied=9))
    older = replace(trial, measurement=replace(measured, allocated_after_steps=()))
    assert [growth_of(each, DEVICE) for each in (skipping, older, broke(4))] == [None] * 3


def test_on_a_cpu_a_few_mebibytes_are_noise() -> None:
    cpu = replace(DEVICE, kind=DeviceKind.CPU)
    small, large = (with_ends([step * size for step in range(24)]) for size in (MIB // 2, 2 * MIB))
    assert growth_of(small, cpu) is None
    assert growth_of(small, DEVICE) is not None
    assert growth_of(large, cpu) is not None


def test_a_prediction_grows_only_if_its_trace_does_not_repeat() -> None:
    trial = replace(with_ends(LINE), source=Source.PREDICTED)
    assert growth_of(trial, DEVICE) is None
    measured = trial.measurement
    assert measured is not None
    model = replace(measured.model, assumptions=(Assumption.STILL_GROWING,))
    growing = replace(trial, measurement=replace(measured, model=model))
    found = growth_of(growing, DEVICE)
    assert found is not None
    assert found.bytes_per_step == 7


def test_the_smallest_and_the_largest_batch_that_grow_are_stated() -> None:
    trials = [with_ends(STEADY, 1), *(with_ends(LINE, batch) for batch in (4, 2, 8, 8))]
    assert [each.batch for each in growth_in(trials, DEVICE)] == [2, 8]
    assert [each.batch for each in growth_in(trials[:2], DEVICE)] == [4]
    assert growth_in(trials[:1], DEVICE) == ()


def test_trials_without_the_ends_of_steps_do_not_show_that_memory_stays_the_same() -> None:
    assert is_known_not_to_grow([with_ends(STEADY)], DEVICE)
    assert not is_known_not_to_grow([with_ends(LINE), with_ends(STEADY)], DEVICE)
    assert not is_known_not_to_grow([ran(4)], DEVICE)
