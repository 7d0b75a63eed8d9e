"""Run against run: what became worse, and whether the two can be compared at all.

A check is one metric of one variant. What the baseline has and the run lacks is a failed check:
nothing passes by being absent. Memory and throughput are compared at equal trials alone (variant,
batch, accumulation), for the two searches need not have tried the same batches everywhere.

A measured figure is a regression only where it is worse by more than its threshold and, beyond
that, by more than the noise; what lies between is told apart. A prediction has no noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.analysis.comparability import differences, require_comparable
from bsprobe.analysis.equal_trials import Figures, figures, has_figure, trials_of
from bsprobe.analysis.thresholds import BATCHES, MORE_IS_BETTER, Metric, Threshold
from bsprobe.records.errors import NotComparableError
from bsprobe.records.runs import DeviceInfo, Environment, Run, StopReason, VariantResult
from bsprobe.records.variants import Variant


class State(StrEnum):
    """The end of a check."""

    OK = "ok"
    IMPROVED = "improved"
    """Better by more than the threshold and the noise."""
    WITHIN_NOISE = "within noise"
    """Worse than the threshold allows, but not by more than equal trials differ."""
    NEW = "new"
    """The baseline has no such figure: nothing to hold it against."""
    REGRESSED = "regressed"
    MISSING = "missing"
    """The baseline has a figure, the run has none that could be held against it."""


FAILING = frozenset({State.REGRESSED, State.MISSING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One metric of one variant, in the metric's own unit."""

    variant: Variant
    threshold: Threshold
    state: State
    baseline: float | None = None
    run: float | None = None
    noise: float = 0.0
    """By how much equal trials may differ."""
    at: str = ""
    """The batch that the figures are of: `5`, `2 x 5` with accumulation, `1 to 5` for a slope."""
    detail: str = ""
    """One sentence where the state alone does not explain itself."""

    @property
    def fails(self) -> bool:
        """True where this check fails the comparison."""
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
        """The checks that fail it."""
        return tuple(check for check in self.checks if check.fails)


def compare(baseline: Run, run: Run, thresholds: Sequence[Threshold]) -> Comparison:
    """Hold a run against a baseline.

    Raises:
        NotComparableError: They differ in more than what is compared, or the baseline has no
            figure at all of a metric.
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
                f"the baseline has no figure of {metric}, for no variant",
                hint="the CPU reserves nothing (take peak), a prediction has no throughput",
            )
    return Comparison(
        device=run.device,
        baseline=baseline.environment,
        run=run.environment,
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
    """Check one metric of one variant; the run's lack of it is a failure, the baseline's is not."""
    metric = threshold.metric
    if absence := _absence(pair, metric):
        state, detail = absence
        return Check(variant=variant, threshold=threshold, state=state, detail=detail)
    assert pair.old is not None  # noqa: S101 - it is absent from neither
    assert pair.new is not None  # noqa: S101 - as above
    if metric in BATCHES:
        return _batch_check(pair.old, pair.new, variant, threshold)
    found = figures(
        trials_of(pair.baseline, variant), trials_of(pair.run, variant), metric, pair.run.device
    )
    if not found:
        detail = "no trial that has it ran in both"
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
    """The reason why there is nothing to compare; None where there is something."""
    if pair.old is None or not _has(pair.baseline, pair.old, metric):
        return State.NEW, "the baseline has no figure of it"
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
    """True where a run has a figure of a metric for a variant."""
    if result.boundary.has_failed:
        return False
    if metric in BATCHES:
        return _batch(result, metric) is not None
    return has_figure(trials_of(run, result.variant), metric)


def _batch_check(
    old: VariantResult, new: VariantResult, variant: Variant, threshold: Threshold
) -> Check:
    before, now = _batch(old, threshold.metric), _batch(new, threshold.metric)
    assert before is not None  # noqa: S101 - `_has` has looked
    if now is None:
        state, detail = State.MISSING, f"the run has none ({new.boundary.stop})"
    else:
        state, detail = _state(Figures(baseline=before, run=now), threshold), ""
        if state is State.REGRESSED and _is_open(new):
            state = State.MISSING
            detail = f"known to be at least {now} only ({new.boundary.stop})"
    return Check(
        variant=variant, threshold=threshold, state=state, baseline=before, run=now, detail=detail
    )


def _batch(result: VariantResult, metric: Metric) -> int | None:
    """The largest or safe batch, 0 where nothing fits, None where that is not known."""
    if result.boundary.stop is StopReason.NOTHING_FITS:
        return 0
    if metric is Metric.MAX_BATCH:
        return result.boundary.largest
    return result.recommendation.safe if result.recommendation is not None else None


def _is_open(result: VariantResult) -> bool:
    """True where the search ended before the memory did, so that larger batches may run."""
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
    """The worsening that passes: what is allowed, and what equal trials differ by anyway."""
    return threshold.allowed(found.baseline) + found.noise
