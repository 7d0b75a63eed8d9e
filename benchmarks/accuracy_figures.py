"""Errors of predictions: figures alone, for `accuracy_report.py` to write down."""

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
"""The project's aims: errors of peak reserved, in the median and at worst."""
AIMED_EXACT: Final = 0.95
"""The project's aim: boundaries that are predicted exactly."""
AIMED_WORKSPACES: Final = 0.99
"""The project's aim: convolutions with the predicted workspace."""

PeakOf = Callable[[Measurement], int | None]
"""Which peak of a trial, in bytes."""


def reserved(measurement: Measurement) -> int | None:
    """The peak of reserved memory over all steps."""
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
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedMachine:
    """A recorded machine, and what predicted for it."""

    name: str
    is_fake: bool
    recorded: Versions
    predicted: Versions

    @property
    def difference(self) -> str | None:
        """What predicted instead of what was recorded, in words; None where nothing differs."""
        return self.predicted.difference_to(self.recorded)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTrial:
    """A recorded trial and its prediction."""

    machine: str
    trial: TruthTrial
    predicted: Measurement | None
    """None where it is predicted not to fit."""
    requests: Comparison | None
    """None where no history was recorded, or other versions predict than recorded it."""

    @property
    def is_judged_rightly(self) -> bool:
        """Whether it is predicted to fit, or not to, as it did."""
        return (self.predicted is not None) == (self.trial.measurement is not None)

    def error(self, peak: PeakOf) -> float | None:
        """(predicted - measured) / measured; None unless both sides have a figure."""
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
    """Zero where nothing is predicted to fit."""

    @property
    def difference(self) -> int:
        """How many images too many are predicted."""
        return self.predicted - self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Everything that was recorded beside everything that is predicted."""

    machines: tuple[CheckedMachine, ...]
    trials: tuple[CheckedTrial, ...]
    boundaries: tuple[CheckedBoundary, ...]

    @property
    def is_fake(self) -> bool:
        """Whether any of it was recorded on a fake GPU."""
        return any(machine.is_fake for machine in self.machines)

    def errors(self, peak: PeakOf) -> tuple[float, ...]:
        """The errors of one peak over all trials that have it."""
        return errors_of(self.trials, peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Errors without their sign, as shares."""

    count: int
    median: float
    ninetieth: float
    """90 of 100 errors are no larger (interpolated linearly)."""
    worst: float
    """With its sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """An aim of the project, and how far it is reached."""

    what: str
    aimed: float
    """A share."""
    found: float
    """A share."""
    count: int
    """What the share was found over."""
    is_met: bool


def joined(parts: Iterable[Accuracy]) -> Accuracy:
    """The findings of several environments as one."""
    known = tuple(parts)
    return Accuracy(
        machines=tuple(each for part in known for each in part.machines),
        trials=tuple(each for part in known for each in part.trials),
        boundaries=tuple(each for part in known for each in part.boundaries),
    )


def aims(found: Accuracy) -> Iterator[Aim]:
    """The aims that there are figures for."""
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
    """The errors of one peak, of the trials that have it."""
    return tuple(error for each in trials if (error := each.error(peak)) is not None)


def spread(errors: Sequence[float]) -> Spread | None:
    """Median, 90th percentile and the worst; None of no errors."""
    if not errors:
        return None
    sizes = np.abs(errors)
    return Spread(
        count=len(errors),
        median=float(np.median(sizes)),
        ninetieth=float(np.percentile(sizes, 90)),
        worst=max(errors, key=abs),
    )
