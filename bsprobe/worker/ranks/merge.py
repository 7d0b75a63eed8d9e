"""One record from the records of all ranks: that of the weakest rank."""

from collections.abc import Sequence
from dataclasses import replace

from bsprobe.records.failures import Certainty, Outcome, is_loss_of_peer
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, Trial, Validated
from bsprobe.records.units import format_bytes

_ROOT_CAUSE_ORDER = (
    (Outcome.OUT_OF_MEMORY, Certainty.CERTAIN),
    (Outcome.KERNEL_LIMIT, Certainty.CERTAIN),
    (Outcome.BATCH_TOO_SMALL, Certainty.CERTAIN),
    (Outcome.HOST_MEMORY, Certainty.CERTAIN),
    (Outcome.OUT_OF_MEMORY, Certainty.PROBABLE),
    (Outcome.HOST_MEMORY, Certainty.PROBABLE),
    (Outcome.FAILED, Certainty.UNEXPLAINED),
    (Outcome.FAILED, Certainty.CERTAIN),
    (Outcome.TIMED_OUT, Certainty.CERTAIN),
)
"""Causes come before the failures that they can cause in other processes."""


def joined_trial(trials: Sequence[Trial]) -> Trial:
    """Merge the records of a trial that all ranks ran together.

    If a rank failed, the result is the record of the rank that caused it; the others were stopped
    or lost their connection. If all ran, it is the record of the rank with the highest peak, with
    the images per second of all ranks.

    Args:
        trials: The records, by rank.
    """
    failed = [rank for rank, trial in enumerate(trials) if not trial.ran]
    if failed:
        rank = min(failed, key=lambda each: (_gravity(trials[each]), each))
        return replace(_of_all(trials[rank], trials), rank=rank)
    rank = max(range(len(trials)), key=lambda each: (_measured(trials[each]).peak_bytes, -each))
    measured = [_measured(trial) for trial in trials]
    joined = replace(
        measured[rank],
        allocator_retries=max(each.allocator_retries for each in measured),
        images_per_second=_sum([each.images_per_second for each in measured]),
        loader_images_per_second=_sum([each.loader_images_per_second for each in measured]),
        validation=_weakest_validation([each.validation for each in measured]),
    )
    retried = any(trial.outcome is Outcome.FITS_WITH_RETRIES for trial in trials)
    outcome = Outcome.FITS_WITH_RETRIES if retried else Outcome.FITS
    return replace(_of_all(trials[rank], trials), outcome=outcome, measurement=joined, rank=rank)


def joined_device(devices: Sequence[DeviceInfo]) -> DeviceInfo:
    """Merge the devices of all ranks: the smallest capacity counts.

    Args:
        devices: The devices, by rank.
    """
    weakest = min(range(len(devices)), key=lambda rank: (devices[rank].capacity_bytes, rank))
    notes = [note for device in devices for note in device.notes]
    if not all(device.has_memory_of(devices[weakest]) for device in devices):
        capacity = format_bytes(devices[weakest].capacity_bytes)
        notes.insert(0, f"Rank {weakest} has the least memory, {capacity}, and limits all ranks.")
    return replace(
        devices[weakest],
        name=" + ".join(dict.fromkeys(device.name for device in devices)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _weakest_validation(tried: Sequence[Validated | None]) -> Validated | None:
    """Return the first validation that failed, else the one with the highest peak."""
    found = [each for each in tried if each is not None]
    failed = [each for each in found if not each.fits]
    return next(iter(failed), None) or max(
        found, key=lambda each: each.peak_bytes(0) or 0, default=None
    )


def _of_all(trial: Trial, trials: Sequence[Trial]) -> Trial:
    """Return a record with the times of rank 0, which runs the search."""
    return replace(trial, started_at=trials[0].started_at, wall_seconds=trials[0].wall_seconds)


def _gravity(trial: Trial) -> tuple[bool, int]:
    failure = trial.failure
    assert failure is not None  # noqa: S101 - it did not run
    kind = (trial.outcome, failure.certainty)
    place = _ROOT_CAUSE_ORDER.index(kind) if kind in _ROOT_CAUSE_ORDER else len(_ROOT_CAUSE_ORDER)
    return is_loss_of_peer(failure.message), place


def _measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None  # noqa: S101 - it ran
    return trial.measurement


def _sum(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None
