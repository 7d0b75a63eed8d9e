"""The number of trials that a search is likely to take."""

from bsprobe.analysis.search import Probe, Process, find_boundary
from bsprobe.records.failures import Outcome

_SMALL, _LARGE = 4, 128
"""Largest batches, in multiples, between which most searches end."""
_AFTER_THE_SEARCH = 2
"""The safe batch and the recommended step, if the search has not run them."""


def likely_trials(*, max_batch: int, multiple: int) -> tuple[int, int]:
    """Return the fewest and the most trials of a run whose every trial is a fresh process.

    They are those of searches for a small and a large boundary, with memory that is affine in the
    batch.

    Args:
        max_batch: The largest batch that may be tried.
        multiple: Only multiples of this number are tried.
    """
    counts = [_trials(largest * multiple, max_batch, multiple) for largest in (_SMALL, _LARGE)]
    return min(counts), max(counts) + _AFTER_THE_SEARCH


def _trials(largest: int, max_batch: int, multiple: int) -> int:
    count = 0

    def measure(batch: int, process: Process) -> Probe:
        nonlocal count
        del process  # every trial is a fresh one
        count += 1
        ran = batch <= largest
        return Probe(
            outcome=Outcome.FITS if ran else Outcome.OUT_OF_MEMORY,
            peak_bytes=batch if ran else None,
            fresh=True,
        )

    find_boundary(measure, capacity_bytes=largest, max_batch=max_batch, multiple=multiple)
    return count
