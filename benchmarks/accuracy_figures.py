"""Errors of predictions, as figures for `accuracy_report.py`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.truth_records import TruthTrial
from benchmarks.truth_versions import Versions
from benchmarks.validation.comparison import Comparison
from bsprobe.records.trials import Measurement
from bsprobe.records.variants import Variant

AIMED_MEDIAN: Final = 0.01
AIMED_WORST: Final = 0.04
"""Project goals: median and worst error of peak reserved."""
AIMED_EXACT: Final = 0.95
"""Project goal: share of boundaries predicted exactly."""
AIMED_WORKSPACES: Final = 0.99
"""Project goal: share of convolutions with the predicted workspace."""

PeakOf = Callable[[Measurement], int | None]
"""Selects one peak of a trial, in bytes; None if the trial has none."""


def reserved(measurement: Measurement) -> int | None:
    """Return the peak of reserved memory over all steps."""
    return measurement.peak_reserved_bytes


PEAKS: dict[str, PeakOf] = {
    "peak reserved": reserved,
    "peak allocated": lambda found: found.peak_allocated_bytes,
    "first step, reserved": lambda found: found.first_step.reserved_bytes,
    "first step, allocated": lambda found: found.first_step.allocated_bytes,
    "later steps, reserved": lambda found: found.steady.reserved_bytes,
    "later steps, allocated": lambda found: found.steady.allocated_bytes,
    "evaluation, reserved": lambda found: (
        None if found.evaluation is None else found.evaluation.reserved_bytes
    ),
    "validation, reserved": lambda found: (
        None
        if found.validation is None or found.validation.peak is None
        else found.validation.peak.reserved_bytes
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedMachine:
    """A recorded machine and the versions that predict for it."""

    name: str
    is_fake: bool
    recorded: Versions
    predicted: Versions

    @property
    def difference(self) -> str | None:
        """Describe how the predicting versions differ from the recorded ones, or return None."""
        return self.predicted.difference_to(self.recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTrial:
    """A recorded trial and its prediction."""

    machine: str
    trial: TruthTrial
    predicted: Measurement | None
    """None if the trial is predicted not to fit."""
    requests: Comparison | None
    """None if no history was recorded or the predicting versions differ from the recording ones."""

    @property
    def is_judged_rightly(self) -> bool:
        """True if the predicted and the recorded trial both fit or both do not fit."""
        return (self.predicted is not None) == (self.trial.measurement is not None)

    def error(self, peak: PeakOf) -> float | None:
        """Return (predicted - measured) / measured; None if either is missing."""
        if self.predicted is None or self.trial.measurement is None:
            return None
        expected, found = peak(self.predicted), peak(self.trial.measurement)
        return None if expected is None or not found else (expected - found) / found


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBoundary:
    """A proven boundary and its prediction, in images."""

    machine: str
    variant: Variant
    capacity_bytes: int
    measured: int
    predicted: int
    """Zero if nothing is predicted to fit."""

    @property
    def difference(self) -> int:
        """Predicted minus recorded boundary, in images."""
        return self.predicted - self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """All recorded trials and boundaries with their predictions."""

    machines: tuple[CheckedMachine, ...]
    trials: tuple[CheckedTrial, ...]
    boundaries: tuple[CheckedBoundary, ...]

    @property
    def is_fake(self) -> bool:
        """True if any of it was recorded on a fake GPU."""
        return any(machine.is_fake for machine in self.machines)

    def errors(self, peak: PeakOf) -> tuple[float, ...]:
        """Return the errors of one peak over all trials that have it."""
        return errors_of(self.trials, peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Absolute errors, as shares."""

    count: int
    median: float
    ninetieth: float
    """90th percentile, interpolated linearly."""
    worst: float
    """Signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A project goal and the figure reached."""

    what: str
    aimed: float
    """A share."""
    found: float
    """A share."""
    count: int
    """Number of cases that the share is taken over."""
    is_met: bool


def joined(parts: Iterable[Accuracy]) -> Accuracy:
    """Merge the findings of several environments."""
    known = tuple(parts)
    return Accuracy(
        machines=tuple(each for part in known for each in part.machines),
        trials=tuple(each for part in known for each in part.trials),
        boundaries=tuple(each for part in known for each in part.boundaries),
    )


def aims(found: Accuracy) -> Iterator[Aim]:
    """Yield the project goals that have figures."""
    errors = spread(found.errors(reserved))
    if errors is not None:
        for what, aimed, error in (
            ("peak reserved, median error at most", AIMED_MEDIAN, errors.median),
            ("peak reserved, worst error at most", AIMED_WORST, abs(errors.worst)),
        ):
            yield Aim(
                what=what, aimed=aimed, found=error, count=errors.count, is_met=error <= aimed
            )
    exact = sum(each.difference == 0 for each in found.boundaries)
    compared = [each.requests for each in found.trials if each.requests is not None]
    equal = sum(each.workspaces_equal for each in compared)
    convolutions = sum(each.convolutions for each in compared)
    for what, aimed, right, count in (
        ("boundaries exact, at least", AIMED_EXACT, exact, len(found.boundaries)),
        ("workspaces equal, at least", AIMED_WORKSPACES, equal, convolutions),
    ):
        if count:
            share = right / count
            yield Aim(what=what, aimed=aimed, found=share, count=count, is_met=share >= aimed)


def errors_of(trials: Iterable[CheckedTrial], peak: PeakOf) -> tuple[float, ...]:
    """Return the errors of one peak, of the trials that have it."""
    return tuple(error for each in trials if (error := each.error(peak)) is not None)


def spread(errors: Sequence[float]) -> Spread | None:
    """Return median, 90th percentile and worst error; None if there are no errors."""
    if not errors:
        return None
    sizes = np.abs(errors)
    return Spread(
        count=len(errors),
        median=float(np.median(sizes)),
        ninetieth=float(np.percentile(sizes, 90)),
        worst=max(errors, key=abs),
    )
