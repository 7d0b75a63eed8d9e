"""Comparison of a run with a baseline.

A check is one metric of one variant. A check fails if the baseline has a figure and the run has
none. Memory and throughput are compared only at equal trials (variant, batch, accumulation),
because the two searches may have tried different batches.

A measured figure is a regression if it is worse by more than its threshold plus the noise; if it is
worse by more than the threshold alone, it is within noise. A prediction has no noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.analysis.comparability import differences, require_comparable
from bsprobe.analysis.equal_trials import Figures, figures, has_figure, trials_of
from bsprobe.analysis.growth import is_known_not_to_grow
from bsprobe.analysis.recommendation import search_trials
from bsprobe.analysis.script_facts import environment_of
from bsprobe.analysis.thresholds import BATCHES, MORE_IS_BETTER, Metric, Threshold
from bsprobe.records.errors import NotComparableError
from bsprobe.records.runs import DeviceInfo, Environment, Run, StopReason, VariantResult
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Variant


class State(StrEnum):
    """The end of a check."""

    OK = "ok"
    IMPROVED = "improved"
    """Better by more than the threshold and the noise."""
    WITHIN_NOISE = "within noise"
    """Worse than the threshold allows, but by no more than equal trials differ."""
    NEW = "new"
    """The baseline has no such figure."""
    REGRESSED = "regressed"
    MISSING = "missing"
    """The baseline has a figure, the run has none to compare with it."""


FAILING = frozenset({State.REGRESSED, State.MISSING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One metric of one variant, in the metric's unit."""

    variant: Variant
    threshold: Threshold
    state: State
    baseline: float | None = None
    run: float | None = None
    noise: float = 0.0
    """The difference that equal trials may have, in the metric's unit."""
    at: str = ""
    """The batch of the figures: `5`, `2 x 5` with accumulation, `1 to 5` for a slope."""
    detail: str = ""
    """The reason for the state, if it needs one."""

    @property
    def fails(self) -> bool:
        """True if this check fails the comparison."""
        return self.state in FAILING


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All checks of a run against a baseline."""

    device: DeviceInfo
    baseline: Environment
    run: Environment
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Differences between the two that do not make them incomparable."""

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that fail the comparison."""
        return tuple(check for check in self.checks if check.fails)


def compare(baseline: Run, run: Run, thresholds: Sequence[Threshold]) -> Comparison:
    """Compare a run with a baseline.

    Args:
        baseline: The run to compare with.
        run: The run to check.
        thresholds: The metrics to compare, each with its threshold.

    Raises:
        NotComparableError: The runs cannot be compared, or the baseline has no figure of a metric.
    """
    metrics = tuple(dict.fromkeys(threshold.metric for threshold in thresholds))
    require_comparable(baseline, run, metrics)
    old = {result.variant: result for result in baseline.results}
    new = {result.variant: result for result in run.results}
    checks = tuple(
        _check(_Pair(baseline=baseline, run=run, old=old.get(v), new=new.get(v)), v, threshold)
        for v in dict.fromkeys((*old, *new))
        for threshold in thresholds
    )
    for metric in metrics:
        if all(check.state is State.NEW for check in checks if check.threshold.metric is metric):
            raise NotComparableError(
                f"the baseline has no figure of {metric} for any variant",
                hint="on the CPU compare peak, not peak-reserved; predictions have no throughput",
            )
    return Comparison(
        device=run.device,
        baseline=environment_of(baseline),
        run=environment_of(run),
        checks=checks,
        notes=differences(baseline, run),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The results of the two runs for one variant."""

    baseline: Run
    run: Run
    old: VariantResult | None
    new: VariantResult | None


def _check(pair: _Pair, variant: Variant, threshold: Threshold) -> Check:
    """Check one metric of one variant; it fails if only the baseline has a figure."""
    metric = threshold.metric
    if absence := _absence(pair, metric):
        state, detail = absence
        return Check(variant=variant, threshold=threshold, state=state, detail=detail)
    assert pair.old is not None  # noqa: S101 - both have it
    assert pair.new is not None  # noqa: S101 - as above
    if metric in BATCHES:
        return _batch_check(pair, variant, threshold)
    found = figures(
        trials_of(pair.baseline, variant), trials_of(pair.run, variant), metric, pair.run.device
    )
    if not found:
        detail = "no trial with this figure ran in both"
        return Check(variant=variant, threshold=threshold, state=State.MISSING, detail=detail)
    worst = max(found, key=lambda each: _worsening(each, threshold) - _passing(each, threshold))
    return Check(
        variant=variant,
        threshold=threshold,
        state=_state(worst, threshold),
        baseline=worst.baseline,
        run=worst.run,
        noise=worst.noise,
        at=worst.at,
    )


def _absence(pair: _Pair, metric: Metric) -> tuple[State, str] | None:
    """The reason why the metric cannot be compared; None if it can."""
    if pair.old is None or not _has(pair.baseline, pair.old, metric):
        return State.NEW, "the baseline has no such figure"
    if pair.new is None:
        return State.MISSING, "the run has no such variant"
    boundary = pair.new.boundary
    if boundary.has_failed:
        return State.MISSING, f"the run failed: {boundary.detail}".removesuffix(": ")
    if metric in BATCHES:
        return None
    went_up_to = pair.old.boundary.largest or 0
    if _is_open(pair.new) and (boundary.largest or 0) < went_up_to:
        return State.MISSING, (
            f"the run stopped at batch {boundary.largest} ({boundary.stop}), "
            f"the baseline went up to {went_up_to}"
        )
    return None


def _has(run: Run, result: VariantResult, metric: Metric) -> bool:
    """Return whether a run has a figure of a metric for a variant."""
    if result.boundary.has_failed:
        return False
    if metric in BATCHES:
        return _batch(result, metric) is not None
    return has_figure(trials_of(run, result.variant), metric)


def _batch_check(pair: _Pair, variant: Variant, threshold: Threshold) -> Check:
    """Compare the largest or the safe batch; none is as good as before if memory begins to grow."""
    old, new = pair.old, pair.new
    assert old is not None  # noqa: S101 - `_check` has made sure
    assert new is not None  # noqa: S101 - as above
    before_growth = is_known_not_to_grow(
        search_trials(pair.baseline.trials, variant), pair.baseline.device
    )
    begins_to_grow = bool(new.critical_growth) and before_growth
    before, now = _batch(old, threshold.metric), _batch(new, threshold.metric)
    assert before is not None  # noqa: S101 - `_has` has checked it
    if begins_to_grow:
        state, detail = State.REGRESSED, f"memory grows in every step: {_growth(new)}"
    elif now is None:
        state, detail = State.MISSING, f"the run has none ({new.boundary.stop})"
    else:
        state, detail = _state(Figures(baseline=before, run=now), threshold), ""
        if state is State.REGRESSED and _is_open(new):
            state = State.MISSING
            detail = f"only known to be at least {now} ({new.boundary.stop})"
    return Check(
        variant=variant, threshold=threshold, state=state, baseline=before, run=now, detail=detail
    )


def _batch(result: VariantResult, metric: Metric) -> int | None:
    """The largest or safe batch; 0 if nothing fits, None if it is not known."""
    if result.boundary.stop is StopReason.NOTHING_FITS:
        return 0
    if metric is Metric.MAX_BATCH:
        return result.boundary.largest
    return result.recommendation.safe if result.recommendation is not None else None


def _growth(result: VariantResult) -> str:
    growth = result.growth[-1]
    return (
        f"by {format_bytes(growth.bytes_per_step)} at batch {growth.batch}, full at about step "
        f"{growth.full_at_step}"
    )


def _is_open(result: VariantResult) -> bool:
    """Return whether the search ended before memory ran out, so that larger batches may run."""
    return result.boundary.stop in (StopReason.MAX_BATCH, StopReason.TIME)


def _state(found: Figures, threshold: Threshold) -> State:
    worse, passing = _worsening(found, threshold), _passing(found, threshold)
    if worse > passing:
        return State.REGRESSED
    if worse > threshold.allowed(found.baseline):
        return State.WITHIN_NOISE
    return State.IMPROVED if -worse > passing else State.OK


def _worsening(found: Figures, threshold: Threshold) -> float:
    change = found.run - found.baseline
    return -change if threshold.metric in MORE_IS_BETTER else change


def _passing(found: Figures, threshold: Threshold) -> float:
    """The worsening that passes: the threshold plus the noise."""
    return threshold.allowed(found.baseline) + found.noise
