"""The search for the largest batch, over a callable that runs a trial.

The batch doubles until a trial fails. Memory is nearly affine in the batch, so the search goes to
the boundary that the line through the measured peaks predicts, and gallops away from it if that is
wrong. It ends when batch B ran and B+1 failed, each in a fresh process.

With a prediction the search begins at the predicted boundary instead of doubling. A wrong
prediction only costs trials: at most two more than without one if memory is affine.
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
    """A process that has run other trials, or a fresh one."""
    FRESH = "fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The facts of a trial that the search needs."""

    outcome: Outcome
    peak_bytes: int | None = None
    """The most memory it held, if it ran."""
    fresh: bool
    """True if its process had run nothing before."""
    certainty: Certainty = Certainty.CERTAIN
    detail: str = ""

    @classmethod
    def of(cls, trial: Trial) -> Self:
        """Return the facts of a recorded trial."""
        measured, failure = trial.measurement, trial.failure
        return cls(
            outcome=trial.outcome,
            peak_bytes=measured.peak_bytes if measured is not None else None,
            fresh=trial.fresh_process,
            certainty=failure.certainty if failure is not None else Certainty.CERTAIN,
            detail=failure.words if failure is not None else "",
        )

    @classmethod
    def of_validation(cls, trial: Trial) -> Self:
        """Return the facts of the validation of a recorded trial."""
        measured = trial.measurement
        tried = None if measured is None else measured.validation
        if measured is None or tried is None:
            return cls.of(trial)
        failure = tried.failure
        return cls(
            outcome=tried.outcome,
            peak_bytes=tried.peak_bytes(measured.outside_allocator_bytes),
            fresh=trial.fresh_process,
            certainty=failure.certainty if failure is not None else Certainty.CERTAIN,
            detail=failure.words if failure is not None else "",
        )


class Measure(Protocol):
    """Run one trial at a batch size."""

    def __call__(self, batch: int, process: Process) -> Probe:
        """Return its facts; raise only to abandon the whole search."""


_TRIALS_AFTER_THE_FIRST = 3
"""A prediction that is off by one costs four trials with the first one."""
LARGEST_MINIMUM = 8
"""The largest batch that a model may need to run at all; beyond it the search fails."""


class _StopSearch(Exception):  # noqa: N818 - it carries a result, it is no error
    def __init__(self, boundary: Boundary) -> None:
        super().__init__(boundary.stop)
        self.boundary = boundary


def find_boundary(
    measure: Measure,
    *,
    capacity_bytes: int,
    max_batch: int,
    multiple: int = 1,
    out_of_time: Callable[[], bool] = lambda: False,
    expected: Expected | None = None,
) -> Boundary:
    """Find the largest batch that runs.

    With a multiple, "the next batch" is the next multiple of it.

    Args:
        measure: Runs a trial. Asked at most once for each batch and kind of process.
        capacity_bytes: The bytes that a trial may hold; only for aiming, no result depends on it.
        max_batch: The largest batch that may be tried, at least the multiple.
        multiple: Only multiples of this number are tried.
        out_of_time: Called before every trial; True ends the search.
        expected: A prediction to begin with, without a multiple; only for aiming, as the capacity.
    """
    ledger = _Ledger(measure, max_batch=max_batch, multiple=multiple, out_of_time=out_of_time)
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

    Nothing is proven in fresh processes: this is for simulated trials.

    Args:
        runs: Returns whether a batch runs.
        guess: The batch to begin with.
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
    """All probes so far, and the bounds that follow from them.

    Batches are counted in multiples of the number that all of them must be a multiple of.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        max_batch: int,
        multiple: int,
        out_of_time: Callable[[], bool],
    ) -> None:
        self._measure = measure
        self._multiple = multiple
        self._out_of_time = out_of_time
        self.max_batch = max_batch // multiple
        self.minimum = 1
        self.probes: dict[int, Probe] = {}

    def try_batch(self, batch: int, process: Process) -> Probe:
        """Run a trial and record it; raise `_StopSearch` if the search ends with it."""
        if self._out_of_time():
            raise self.stop(StopReason.TIME, "the time limit for this variant was reached")
        probe = self._measure(self.images(batch), process)
        self.probes[batch] = probe
        if probe.outcome is Outcome.FAILED:
            raise self.stop(StopReason.FAILED, probe.detail)
        if probe.outcome is Outcome.HOST_MEMORY:
            raise self.stop(
                StopReason.HOST_MEMORY,
                f"the host memory of this machine ran out, not the device's: {probe.detail}",
            )
        if probe.outcome is Outcome.TIMED_OUT:
            raise self.stop(StopReason.TIME, f"batch {self.images(batch)}: {probe.detail}")
        return probe

    def images(self, batch: int) -> int:
        """Return the images of a batch that is counted in multiples."""
        return batch * self._multiple

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
        """Return whether the largest batch ran only with retries, so that the boundary is near."""
        low = self.low
        return low is not None and self.probes[low].outcome is Outcome.FITS_WITH_RETRIES

    def is_proven(self, batch: int) -> bool:
        """Return whether the last trial of a batch had a fresh process."""
        return batch in self.probes and self.probes[batch].fresh

    def line(self) -> Line | None:
        """Return memory against batch as measured so far, through distant points.

        The allocator's rounding would determine the slope between two neighbours.
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
        """Return the end of the search, with the bounds known by then."""
        low, high = (None if end is None else self.images(end) for end in (self.low, self.high))
        return _StopSearch(Boundary(stop=reason, largest=low, first_failure=high, detail=detail))


def _follow(ledger: _Ledger, expected: Expected, capacity_bytes: int) -> None:
    """Try the predicted boundary, corrected by the first two trials, and its neighbour.

    One trial well below the boundary gives the error of the prediction. With a second one at the
    corrected boundary, two measured peaks give the line. Up to two more trials close the gap.
    """
    half = min(expected.half, ledger.max_batch)
    outcome = ledger.try_batch(half, Process.ANY).outcome
    if outcome is Outcome.BATCH_TOO_SMALL:
        ledger.minimum = half + 1
    if outcome not in RAN:
        return
    aim = expected.corrected(ledger.probes[half].peak_bytes)
    if expected.largest > 1 and not 3 * expected.largest <= 4 * aim <= 5 * expected.largest:
        return  # it is off by a quarter or more: do not follow it
    for _ in range(_TRIALS_AFTER_THE_FIRST):
        low, high = ledger.low, ledger.high
        assert low is not None  # noqa: S101 - a trial ran
        if low == ledger.max_batch or (high is not None and high - low == 1):
            return
        above = ledger.max_batch if high is None else high - 1
        batch = min(max(aim, low + 1), above)
        if ledger.try_batch(batch, Process.FRESH).outcome not in RAN:
            # After a wrong correction upwards, try the prediction.
            aim = min(batch - 1, expected.largest)
            continue
        line = ledger.line()
        measured = line.largest_within(capacity_bytes) if line is not None else None
        # A line is not extended beyond its points by more than their distance.
        aim = min(max(measured or 0, batch + 1), batch + (batch - low))


def _double(ledger: _Ledger) -> None:
    """Double from the smallest batch that the model runs with until a trial fails.

    Batches that have been tried are not tried again.
    """
    low, high = ledger.low, ledger.high
    if low == ledger.max_batch:
        raise _max_batch_ran(ledger)
    batch = ledger.minimum if low is None else min(2 * low, ledger.max_batch)
    while high is None or batch < high:
        outcome = ledger.try_batch(batch, Process.ANY).outcome
        if outcome is Outcome.BATCH_TOO_SMALL:
            if batch == min(LARGEST_MINIMUM, ledger.max_batch):
                raise ledger.stop(
                    StopReason.FAILED, f"the model does not run at batch {ledger.images(batch)}"
                )
            batch = ledger.minimum = batch + 1
        elif outcome not in RAN:
            return
        elif batch == ledger.max_batch:
            raise _max_batch_ran(ledger)
        else:
            batch = min(2 * batch, ledger.max_batch)


def _max_batch_ran(ledger: _Ledger) -> _StopSearch:
    detail = f"batch {ledger.images(ledger.max_batch)} ran, which is the largest allowed"
    return ledger.stop(StopReason.MAX_BATCH, detail)


def _close_in(ledger: _Ledger, capacity_bytes: int) -> Boundary:
    """Search from a batch that failed to the exact boundary, proven in fresh processes."""
    aim = _Aim(ledger, capacity_bytes)
    while True:
        low, high = ledger.low, ledger.high
        if low is None and high == ledger.minimum and ledger.is_proven(high):
            raise _nothing_fits(ledger, high)
        if high is None:
            # A batch that failed in a used process ran in a fresh one: the boundary is higher.
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
    probe, images = ledger.probes[high], ledger.images(high)
    if probe.outcome is Outcome.KERNEL_LIMIT:
        return ledger.stop(
            StopReason.FAILED,
            f"batch {images} meets a kernel limit, not the end of the memory: {probe.detail}",
        )
    if probe.certainty is Certainty.PROBABLE:
        # Only a smaller batch that runs would confirm that this was memory, and there is none.
        return ledger.stop(
            StopReason.FAILED,
            f"batch {images} probably ran out of memory, but no smaller batch ran to confirm it: "
            f"{probe.detail}",
        )
    return ledger.stop(StopReason.NOTHING_FITS, probe.detail)


class _Aim:
    """Chooses the next batch between the bounds: first the line's, then galloping away from it."""

    def __init__(self, ledger: _Ledger, capacity_bytes: int) -> None:
        line = ledger.line()
        self._estimate = line.largest_within(capacity_bytes) if line else None
        self._max_batch = ledger.max_batch
        self._first = True
        self._step = 1
        self._last_floor: int | None = None

    def upwards(self, low: int) -> int:
        """Return the next batch if none above is known to fail."""
        candidate = min(low + self._step, self._max_batch)
        self._step *= 2
        return candidate

    def between(self, floor: int, high: int) -> int:
        """Return the next batch, strictly between one that ran (or zero) and one that failed."""
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
