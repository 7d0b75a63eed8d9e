"""The records of all ranks are merged into that of the weakest rank."""

from dataclasses import replace

import pytest

from bsprobe.records.failures import STOPPED_WITH_ITS_PEERS, Certainty, Outcome
from bsprobe.records.trials import Trial
from bsprobe.records.units import GIB, MIB
from bsprobe.worker.ranks.merge import joined_device, joined_trial
from tests.support.builders import DEVICE, broke, failure, ran
from tests.support.builders import measurement as measured

LOST = failure("RuntimeError: [/pytorch/gloo/pair.cc:537] Connection closed by peer [10.0.0.2]:1")
DIED = failure("the process died", certainty=Certainty.UNEXPLAINED)
STOPPED = failure(STOPPED_WITH_ITS_PEERS)


def at(trial: Trial, seconds: float) -> Trial:
    return replace(
        trial, wall_seconds=seconds, started_at=f"2025-01-31T12:00:{seconds:02.0f}+00:00"
    )


def failing(outcome: Outcome, why: object = None) -> Trial:
    return replace(broke(8), outcome=outcome, failure=why or failure())  # type: ignore[arg-type] # a Failure


def test_trials_that_ran_merge_to_the_largest_peak_and_the_throughput_of_all() -> None:
    small, large = at(ran(8, 4 * GIB), 10), at(ran(8, 5 * GIB), 20)
    assert joined_trial([small, large, small]) == replace(
        large,
        rank=1,
        wall_seconds=10,
        started_at=small.started_at,
        measurement=replace(measured(5 * GIB, images=8), images_per_second=60.0),
    )


def test_retries_of_any_rank_are_retries() -> None:
    retried = replace(
        ran(8, 4 * GIB),
        outcome=Outcome.FITS_WITH_RETRIES,
        measurement=replace(measured(4 * GIB), allocator_retries=3),
    )
    joined = joined_trial([ran(8, 5 * GIB), retried])
    assert joined.measurement is not None
    assert (joined.outcome, joined.rank) == (Outcome.FITS_WITH_RETRIES, 0)
    assert joined.measurement.allocator_retries == 3


@pytest.mark.parametrize(
    ("trials", "rank"),
    [
        ([ran(8), failing(Outcome.OUT_OF_MEMORY)], 1),
        ([failing(Outcome.FAILED, STOPPED), failing(Outcome.OUT_OF_MEMORY)], 1),
        ([failing(Outcome.FAILED, LOST), failing(Outcome.FAILED)], 1),
        ([failing(Outcome.OUT_OF_MEMORY), failing(Outcome.OUT_OF_MEMORY)], 0),
        ([failing(Outcome.TIMED_OUT), failing(Outcome.KERNEL_LIMIT)], 1),
        (
            [
                failing(Outcome.OUT_OF_MEMORY, failure(certainty=Certainty.PROBABLE)),
                failing(Outcome.OUT_OF_MEMORY),
            ],
            1,
        ),
        ([failing(Outcome.FAILED, STOPPED), failing(Outcome.FAILED, LOST)], 0),
        ([failing(Outcome.FAILED), failing(Outcome.FAILED, DIED)], 1),
        ([failing(Outcome.FAILED, DIED), failing(Outcome.HOST_MEMORY)], 1),
    ],
    ids=[
        "one",
        "stopped",
        "lost",
        "both",
        "cause first",
        "certain first",
        "no cause",
        "death first",
        "host",
    ],
)
def test_the_verdict_is_that_of_the_rank_that_caused_the_failure(
    trials: list[Trial], rank: int
) -> None:
    assert joined_trial(trials) == replace(trials[rank], rank=rank)


def test_different_devices_merge_to_the_smallest_capacity() -> None:
    small = replace(DEVICE, name="RTX 3060", capacity_bytes=11 * GIB, notes=("Old.",))
    found = joined_device([DEVICE, small, DEVICE])
    assert found == replace(
        small,
        name="NVIDIA GeForce RTX 4090 + RTX 3060",
        notes=(found.notes[0], "Another process holds 300 MiB.", "Old."),
    )
    assert "Rank 1" in found.notes[0]
    assert "11.0 GiB" in found.notes[0]


def test_a_few_mib_of_other_processes_are_not_noted() -> None:
    whole = replace(DEVICE, limit_bytes=None)
    busier = replace(whole, capacity_bytes=whole.capacity_bytes - 63 * MIB)
    assert joined_device([whole, busier]) == busier
    limits = [replace(DEVICE, limit_bytes=n, capacity_bytes=n) for n in (90 * MIB, 80 * MIB)]
    (note, *_) = joined_device(limits).notes
    assert "Rank 1" in note
    assert "80 MiB" in note


def test_equal_devices_are_one() -> None:
    assert joined_device([DEVICE] * 4) == DEVICE
