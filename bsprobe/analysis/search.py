"""Doubling until it fails, then the exact boundary: pure code over a callable.

Memory is nearly affine in the batch, so the line through the measured peaks says where the
boundary should be; the search goes there first and gallops away from it when it is wrong. It ends
when batch B ran and B+1 failed, each in a process that had run nothing before.

Where a prediction says where the boundary is, the search begins there instead of doubling. It
believes nothing: a wrong prediction costs trials, at most two more than none would have where
memory is affine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from bsprobe.analysis.expectation import Expected
from bsprobe.analysis.memory_line import Line, line_through
from bsprobe.records.failures import RAN, Certainty, Outcome
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.trials import Trial


class Process(Enum):
    """The process that a trial is to run in."""

    ANY = "any"
    """One that has run other trials is fine."""
    FRESH = "fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The facts of a trial that the search needs."""

    outcome: Outcome
    peak_bytes: int | None = None
    """The most memory it held, if it ran."""
    fresh: bool
    """True where its process had run nothing before."""
    certainty: Certainty = Certainty.CERTAIN
    detail: str = ""

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """The facts of a recorded trial."""
        measured, failure = trial.measurement, trial.failure
        return cls(
            outcome=trial.outcome,
            peak_bytes=measured.peak_bytes if measured is not None else None,
            fresh=trial.fresh_process,
            certainty=failure.certainty if failure is not None else Certainty.CERTAIN,
            detail=failure.words if failure is not None else "",
        )


class Measure(Protocol):
    """Run one trial at a batch size."""

    def __call__(self, batch: int, process: Process) -> Probe:
        """Return what came of it; raise only to abandon the whole search."""


_TRIALS_AFTER_THE_FIRST = 3
"""With the first one four: as many as a prediction that is off by one may cost."""
LARGEST_MINIMUM = 8
"""A model that needs more images than this to run at all has another problem than batch size."""


class _StopSearch(Exception):  # noqa: N818 - it carries a result, it is no error
    def __init__(self, boundary: Boundary) -> None:
        super().__init__(boundary.stop)
        self.boundary = boundary


def find_boundary(
    measure: Measure,
    *,
    capacity_bytes: int,
    max_batch: int,
    out_of_time: Callable[[], bool] = lambda: False,
    expected: Expected | None = None,
) -> Boundary:
    """Find the largest batch that runs.

    Args:
        measure: Runs a trial. Asked at most once for each batch and kind of process.
        capacity_bytes: What a trial may hold; only steers the search, decides nothing.
        max_batch: The largest batch that may be tried, at least 1.
        out_of_time: Asked before every trial.
        expected: A prediction to begin with; steers the search as well, and decides nothing.
    """
    ledger = _Ledger(measure, max_batch=max_batch, out_of_time=out_of_time)
    try:
        if expected is not None:
            _follow(ledger, expected, capacity_bytes)
        if ledger.low is None or (ledger.high is None and not ledger.is_at_the_end()):
            _double(ledger)
        return _close_in(ledger, capacity_bytes)
    except _StopSearch as stop:
        return stop.boundary


def gallop(runs: Callable[[int], bool], guess: int, *, minimum: int, max_batch: int) -> int | None:
    """Gallop from a guess to a batch that runs while the next one does not.

    Nothing is proven in fresh processes: this serves simulated trials, which are all alike.

    Args:
        runs: Whether a batch runs.
        guess: Where to begin.
        minimum: The smallest batch to try.
        max_batch: The largest batch to try.

    Returns:
        The batch; None if not even the smallest runs.
    """
    low, high = minimum - 1, max_batch + 1
    batch, step = min(max(guess, minimum), max_batch), 1
    while high - low > 1:
        if runs(batch):
            low = batch
            batch = low + step
        else:
            high = batch
            batch = high - step
        step *= 2
        if not low < batch < high:
            batch = (low + high) // 2
    return low if low >= minimum else None


class _Ledger:
    """Every probe so far, and the bounds that follow from them."""

    def __init__(
        self, measure: Measure, *, max_batch: int, out_of_time: Callable[[], bool]
    ) -> None:
        self._measure = measure
        self._out_of_time = out_of_time
        self.max_batch = max_batch
        self.minimum = 1
        self.probes: dict[int, Probe] = {}

    def try_batch(self, batch: int, process: Process) -> Probe:
        """Run a trial and note it; leave the search if it ends there."""
        if self._out_of_time():
            raise self.stop(StopReason.TIME, "the time limit for this variant was reached")
        probe = self._measure(batch, process)
        self.probes[batch] = probe
        if probe.outcome is Outcome.FAILED:
            raise self.stop(StopReason.FAILED, probe.detail)
        if probe.outcome is Outcome.HOST_MEMORY:
            raise self.stop(
                StopReason.HOST_MEMORY,
                f"the memory of this machine ended, not the card's: {probe.detail}",
            )
        if probe.outcome is Outcome.TIMED_OUT:
            raise self.stop(StopReason.TIME, f"batch {batch} took longer than a trial may take")
        return probe

    @property
    def low(self) -> int | None:
        """The largest batch that ran."""
        return max((b for b, p in self.probes.items() if p.outcome in RAN), default=None)

    @property
    def high(self) -> int | None:
        """The smallest batch above `low` that did not run."""
        floor = self.low or 0
        failed = (b for b, p in self.probes.items() if p.outcome not in RAN and b > floor)
        return min((b for b in failed if b >= self.minimum), default=None)

    def is_at_the_end(self) -> bool:
        """True where the largest batch that ran needed all memory: the boundary is near."""
        low = self.low
        return low is not None and self.probes[low].outcome is Outcome.FITS_WITH_RETRIES

    def is_proven(self, batch: int) -> bool:
        """True where the last trial of a batch had a fresh process."""
        return batch in self.probes and self.probes[batch].fresh

    def line(self) -> Line | None:
        """Memory against batch as measured so far, through points that lie apart.

        Of two neighbours the allocator's rounding would decide about the slope.
        """
        peaks = [
            (batch, probe.peak_bytes)
            for batch, probe in self.probes.items()
            if probe.outcome is Outcome.FITS and probe.peak_bytes is not None
        ]
        largest = max(peaks, default=(0, 0))
        apart = [peak for peak in peaks if 2 * peak[0] <= largest[0]]
        return line_through([*apart, largest] if apart else peaks)

    def stop(self, reason: StopReason, detail: str = "") -> _StopSearch:
        """The end of the search, with what is known by then."""
        return _StopSearch(
            Boundary(stop=reason, largest=self.low, first_failure=self.high, detail=detail)
        )


def _follow(ledger: _Ledger, expected: Expected, capacity_bytes: int) -> None:
    """Try what is predicted, as corrected by the first two trials, and its neighbour.

    One trial well below the boundary tells how far the prediction is off; after one at the
    corrected boundary two measured peaks give the line. Up to two trials more then close the gap.
    """
    half = min(expected.half, ledger.max_batch)
    outcome = ledger.try_batch(half, Process.ANY).outcome
    if outcome is Outcome.BATCH_TOO_SMALL:
        ledger.minimum = half + 1
    if outcome not in RAN:
        return
    aim = expected.corrected(ledger.probes[half].peak_bytes)
    if expected.largest > 1 and not 3 * expected.largest <= 4 * aim <= 5 * expected.largest:
        return  # it is off by a quarter or more: nothing to follow
    for _ in range(_TRIALS_AFTER_THE_FIRST):
        low, high = ledger.low, ledger.high
        assert low is not None  # noqa: S101 - a trial ran
        if low == ledger.max_batch or (high is not None and high - low == 1):
            return
        above = ledger.max_batch if high is None else high - 1
        batch = min(max(aim, low + 1), above)
        if ledger.try_batch(batch, Process.FRESH).outcome not in RAN:
            # A correction upwards that was wrong leaves what was predicted.
            aim = min(batch - 1, expected.largest)
            continue
        line = ledger.line()
        measured = line.largest_within(capacity_bytes) if line is not None else None
        # A line is drawn no further beyond its two points than they lie apart.
        aim = min(max(measured or 0, batch + 1), batch + (batch - low))


def _double(ledger: _Ledger) -> None:
    """Double from the smallest batch the model runs with until a trial fails.

    What is known from before is not tried again.
    """
    low, high = ledger.low, ledger.high
    if low == ledger.max_batch:
        raise _max_batch_ran(ledger)
    batch = ledger.minimum if low is None else min(2 * low, ledger.max_batch)
    while high is None or batch < high:
        outcome = ledger.try_batch(batch, Process.ANY).outcome
        if outcome is Outcome.BATCH_TOO_SMALL:
            if batch == min(LARGEST_MINIMUM, ledger.max_batch):
                raise ledger.stop(StopReason.FAILED, f"the model does not run at batch {batch}")
            batch = ledger.minimum = batch + 1
        elif outcome not in RAN:
            return
        elif batch == ledger.max_batch:
            raise _max_batch_ran(ledger)
        else:
            batch = min(2 * batch, ledger.max_batch)


def _max_batch_ran(ledger: _Ledger) -> _StopSearch:
    detail = f"batch {ledger.max_batch} ran; no larger one was asked for"
    return ledger.stop(StopReason.MAX_BATCH, detail)


def _close_in(ledger: _Ledger, capacity_bytes: int) -> Boundary:
    """From a batch that failed to the exact boundary, both sides proven in fresh processes."""
    aim = _Aim(ledger, capacity_bytes)
    while True:
        low, high = ledger.low, ledger.high
        if low is None and high == ledger.minimum and ledger.is_proven(high):
            raise _nothing_fits(ledger, high)
        if high is None:
            # A fresh process ran what had failed in a used one: the boundary lies higher.
            assert low is not None  # noqa: S101 - the doubling ended with a failure, since retracted
            if low == ledger.max_batch:
                raise _max_batch_ran(ledger)
            ledger.try_batch(aim.upwards(low), Process.FRESH)
            continue
        floor = ledger.minimum - 1 if low is None else low
        if high - floor > 1:
            ledger.try_batch(aim.between(floor, high), Process.FRESH)
        elif low is not None and not ledger.is_proven(low):
            ledger.try_batch(low, Process.FRESH)
        elif not ledger.is_proven(high):
            ledger.try_batch(high, Process.FRESH)
        else:
            return _proven(ledger, high)


def _proven(ledger: _Ledger, high: int) -> Boundary:
    limit = ledger.probes[high].outcome is Outcome.KERNEL_LIMIT
    detail = ledger.probes[high].detail if limit else ""
    reason = StopReason.KERNEL_LIMIT if limit else StopReason.PROVEN
    return ledger.stop(reason, detail).boundary


def _nothing_fits(ledger: _Ledger, high: int) -> _StopSearch:
    probe = ledger.probes[high]
    if probe.outcome is Outcome.KERNEL_LIMIT:
        return ledger.stop(
            StopReason.FAILED, f"batch {high} meets a kernel limit, not the memory: {probe.detail}"
        )
    if probe.certainty is Certainty.PROBABLE:
        # Only a smaller batch that succeeds would confirm that this was memory, and there is none.
        return ledger.stop(
            StopReason.FAILED,
            f"batch {high} may have run out of memory, which no smaller one confirms: "
            f"{probe.detail}",
        )
    return ledger.stop(StopReason.NOTHING_FITS, probe.detail)


class _Aim:
    """Chooses the next batch between the bounds: where the line points, then galloping away."""

    def __init__(self, ledger: _Ledger, capacity_bytes: int) -> None:
        line = ledger.line()
        self._estimate = line.largest_within(capacity_bytes) if line else None
        self._max_batch = ledger.max_batch
        self._first = True
        self._step = 1
        self._last_floor: int | None = None

    def upwards(self, low: int) -> int:
        """The next batch when nothing above is known to fail."""
        candidate = min(low + self._step, self._max_batch)
        self._step *= 2
        return candidate

    def between(self, floor: int, high: int) -> int:
        """The next batch, strictly between one that ran (or zero) and one that failed."""
        middle = (floor + high) // 2
        if self._estimate is None:
            return middle
        if self._first:
            self._first = False
            self._last_floor = floor
            return min(max(self._estimate, floor + 1), high - 1)
        rose = floor != self._last_floor
        self._last_floor = floor
        candidate = floor + self._step if rose else high - self._step
        self._step *= 2
        # Never past the middle: the gallop must not be slower than bisection.
        return min(candidate, middle) if rose else max(candidate, middle)
