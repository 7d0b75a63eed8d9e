"""Recommendations computed from proven boundaries.

Sources of the rules: linear scaling and warm-up from Goyal et al. 2017; the square root for
adaptive optimizers from Malladi et al. 2022; accumulation and updates count effective batches.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bsprobe.analysis.rates import rule_for, scaled_rate
from bsprobe.records.errors import UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import REFERENCE, Recommendation, Target, TrainingPlan
from bsprobe.records.trials import REPEATED, Ddp, Trial
from bsprobe.records.variants import Variant

BEST_WITHIN = 0.02
"""A batch counts as fast as the fastest within this share of its images per second."""
WARMUP_SHARE = 0.05
"""Share of updates that warm up when the rate is scaled up; Goyal et al.: 5 of 90 epochs."""
BATCH_OF_UPDATES = REFERENCE.base_batch or 1
"""The batch of DeepLabV2's recipe."""
_DIVISOR_KEEPS = 2 / 3
"""An exact divisor of the target is taken if it keeps this share of the micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The three batch sizes that follow from a variant's trials."""

    largest: int
    safe: int
    best: int
    best_is_measured: bool
    keeps_headroom: bool
    """False if not even the smallest batch leaves the headroom free."""


def search_trials(trials: Iterable[Trial], variant: Variant) -> list[Trial]:
    """Return the trials of a variant that ran without accumulation, in their order."""
    return [
        trial
        for trial in trials
        if trial.spec.variant == variant
        and trial.ran
        and trial.spec.accumulation_steps == 1
        and trial.purpose not in REPEATED
    ]


def limits(
    trials: Sequence[Trial], *, candidates: Sequence[int], largest: int, budget_bytes: float
) -> Limits:
    """Derive safe and best from the trials that ran.

    Args:
        trials: Trials of one variant, without accumulation, that ran.
        candidates: Batches that may be safe, the largest first.
        largest: The largest batch that ran.
        budget_bytes: The most that a trial may hold to leave the headroom free.
    """
    safe = _largest_within(trials, candidates, budget_bytes)
    smallest = min(trial.spec.batch_size for trial in trials)
    # A faster batch beyond the safe one is not recommended.
    best = _fastest([trial for trial in trials if trial.spec.batch_size <= (safe or smallest)])
    return Limits(
        largest=largest,
        safe=safe or smallest,
        best=best or safe or smallest,
        best_is_measured=best is not None,
        keeps_headroom=safe is not None,
    )


def keeps_headroom(trials: Sequence[Trial], safe: int, budget_bytes: float) -> bool:
    """Return whether a safe batch leaves the headroom free.

    It does not if it is merely the smallest batch that ran.

    Args:
        trials: Trials of one variant, without accumulation, that ran.
        safe: The safe batch that was derived from them.
        budget_bytes: The most that a trial may hold to leave the headroom free.
    """
    return _largest_within(trials, [safe], budget_bytes) is not None


def _largest_within(
    trials: Sequence[Trial], candidates: Sequence[int], budget: float
) -> int | None:
    """The largest of some batches whose measured, else interpolated, peak is in budget.

    Peaks are interpolated between measured neighbours, not taken from one line: the two batches at
    the boundary are adjacent, and the allocator's rounding would determine the slope through them.
    A batch that ran only with allocator retries is never safe.
    """
    peaks = _peaks(trials, Outcome.FITS)
    short = {
        batch: peak
        for batch, peak in _peaks(trials, Outcome.FITS_WITH_RETRIES).items()
        if batch not in peaks
    }
    for batch in candidates:
        needed = _interpolated(peaks, batch)
        if needed is None:
            needed = _towards_a_short_one(peaks, short, batch)
        if needed is not None and needed <= budget and batch not in short:
            return batch
    return None


def _peaks(trials: Sequence[Trial], outcome: Outcome) -> dict[int, int]:
    """Bytes by batch, of the trials with this outcome."""
    return {
        trial.spec.batch_size: trial.measurement.peak_bytes
        for trial in trials
        if trial.measurement is not None and trial.outcome is outcome
    }


def _interpolated(peaks: Mapping[int, int], batch: int) -> float | None:
    """The bytes that a batch takes; None outside of the measured batches."""
    below = max((known for known in peaks if known <= batch), default=None)
    above = min((known for known in peaks if known >= batch), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return peaks[batch]
    share = (batch - below) / (above - below)
    return peaks[below] + share * (peaks[above] - peaks[below])


def _towards_a_short_one(
    peaks: Mapping[int, int], short: Mapping[int, int], batch: int
) -> float | None:
    """The bytes of a batch between the last one without retries and one with retries.

    The batch with retries needed more than it got, so the line to it is too low. The line up to the
    last batch without retries is extended, and the higher of both counts.
    """
    known = sorted(peaks)
    above = [other for other in short if other > batch]
    if not known or not above or batch < known[-1]:
        return None
    last, nearest = known[-1], min(above)
    slopes = [(short[nearest] - peaks[last]) / (nearest - last)]
    if len(known) > 1:
        slopes.append((peaks[last] - peaks[known[-2]]) / (last - known[-2]))
    return peaks[last] + (batch - last) * max(slopes)


def _fastest(trials: Sequence[Trial]) -> int | None:
    """The smallest batch within `BEST_WITHIN` of the best throughput; None without throughput.

    Trials that were timed for fewer steps than others, to measure memory only, do not count.
    """
    rates: dict[int, float] = {}
    steps = max((trial.spec.measured_steps for trial in trials), default=0)
    for trial in trials:
        if trial.measurement is None or trial.spec.measured_steps < steps:
            continue
        if trial.measurement.images_per_second is not None:
            batch = trial.spec.batch_size
            rates[batch] = max(rates.get(batch, 0.0), trial.measurement.images_per_second)
    if not rates:
        return None
    enough = max(rates.values()) * (1 - BEST_WITHIN)
    return min(batch for batch, rate in rates.items() if rate >= enough)


def split(target: int, safe: int, *, multiple: int = 1) -> tuple[int, int]:
    """Split a wanted effective batch into (micro-batch, accumulation steps).

    It takes the fewest steps, then the smallest micro-batch that reaches the target. If an exact
    divisor of the target has at least two thirds of that micro-batch, it is taken instead, so that
    the effective batch is exact.

    Args:
        target: The wanted effective batch, in images.
        safe: The largest micro-batch.
        multiple: The micro-batch is a multiple of this number.
    """
    target, safe = math.ceil(target / multiple), safe // multiple
    steps = math.ceil(target / safe)
    micro = math.ceil(target / steps)
    divisor = max(d for d in range(1, min(safe, target) + 1) if target % d == 0)
    if divisor >= micro * _DIVISOR_KEEPS:
        return divisor * multiple, target // divisor
    return micro * multiple, steps


def recipe_of(variant: Variant, target: Target) -> Target:
    """Return a target completed from DeepLabV2's recipe, if the network is a DeepLabV2.

    No recipe is known for other networks: without a wanted batch the best one that fits is
    recommended, and without a rate a factor for it.
    """
    return with_recipe(target) if variant.has_recipe else target


def with_recipe(target: Target) -> Target:
    """Return a target completed from DeepLabV2's recipe."""
    return replace(
        target,
        batch=target.batch or REFERENCE.batch,
        base_batch=target.base_batch or REFERENCE.base_batch,
        base_learning_rate=target.base_learning_rate or REFERENCE.base_learning_rate,
    )


def check_target(target: Target) -> None:
    """Reject a learning rate without its batch.

    Raises:
        UsageError: The target has a rate and no batch that it belongs to.
    """
    if target.base_learning_rate is not None and target.base_batch is None:
        raise UsageError(
            "--base-lr needs --base-batch: a learning rate belongs to a batch",
            hint="add --base-batch N, the effective batch that you train with at this rate",
        )


def warms_up(target: Target, effective_batch: int) -> bool:
    """Return whether the rate is scaled up, or may be because its batch is not known."""
    return target.base_batch is None or effective_batch > target.base_batch


def _formula(target: Target, effective_batch: int, rule: LearningRateRule) -> str:
    ratio = f"({effective_batch} / {target.base_batch or 'your batch'})"
    return f"lr * {'' if rule is LearningRateRule.LINEAR else 'sqrt'}{ratio}"


def plan(
    variant: Variant,
    target: Target,
    *,
    micro_batch: int,
    steps: int,
    groups: Mapping[str, float],
    processes: int = 1,
    ddp: Ddp = Ddp.DEFAULT,
) -> TrainingPlan:
    """Return the plan for a micro-batch and a number of accumulation steps.

    Args:
        variant: The variant; its optimizer determines the default rule.
        target: The recipe to scale from.
        micro_batch: Images per forward pass.
        steps: Micro-batches per update.
        groups: The learning-rate multiplier of each parameter group of the model, by name.
        processes: The number of processes, each with its own micro-batches.
        ddp: The setting of DistributedDataParallel.
    """
    effective = micro_batch * steps * processes
    rule = rule_for(target, variant.optimizer)
    rate = scaled_rate(target, effective, rule)
    updates, warmup = None, None
    if rate is not None and target.base_batch is not None:
        updates = max(1, round(target.base_updates * target.base_batch / effective))
        warmup = round(updates * WARMUP_SHARE) if warms_up(target, effective) else 0
    return TrainingPlan(
        micro_batch=micro_batch,
        accumulation_steps=steps,
        effective_batch=effective,
        learning_rate=rate,
        group_learning_rates=()
        if rate is None
        else tuple((name, rate * factor) for name, factor in groups.items()),
        lr_rule=rule,
        updates=updates,
        warmup_updates=warmup,
        processes=processes,
        ddp=ddp,
        rate_formula=_formula(target, effective, rule) if rate is None else None,
    )


def recommend(
    variant: Variant,
    found: Limits,
    target: Target,
    *,
    groups: Mapping[str, float],
    most_accumulated: int | None = None,
    processes: int = 1,
    ddp: Ddp = Ddp.DEFAULT,
    multiple: int = 1,
) -> Recommendation:
    """Recommend for one variant.

    Args:
        variant: The variant.
        found: Its three batch sizes.
        target: The recipe to scale from, as `recipe_of` fills it.
        groups: As in `plan`.
        most_accumulated: The largest micro-batch that a plan may have, if larger ones failed with
            accumulation, because accumulated gradients stay allocated in the forward pass. None if
            none has failed; zero if all have, so that the plan has no accumulation.
        processes: The number of processes; each takes its share of the effective batch.
        ddp: The setting of DistributedDataParallel: a static graph cannot accumulate gradients.
        multiple: The micro-batch is a multiple of this number.
    """
    planned = partial(plan, variant, target, groups=groups, processes=processes, ddp=ddp)
    alone = planned(micro_batch=found.best, steps=1)
    most = found.safe if most_accumulated is None else min(found.safe, most_accumulated)
    most -= most % multiple
    wanted = None if target.batch is None else math.ceil(target.batch / processes)
    accumulates = ddp is not Ddp.STATIC_GRAPH
    if variant.script is not None:
        accumulates = variant.script.accumulates
    if wanted is not None and wanted > most and not accumulates:
        most = 0
    if most > 0:
        micro, steps = (
            (min(found.best, most), 1) if wanted is None else split(wanted, most, multiple=multiple)
        )
        chosen = planned(micro_batch=micro, steps=steps)
    return Recommendation(
        variant=variant,
        largest=found.largest,
        safe=found.safe,
        best=found.best,
        best_is_measured=found.best_is_measured,
        plan=chosen if most > 0 else alone,
        without_accumulation=alone,
        reaches_target=most > 0,
    )


def starred(recommendations: Sequence[Recommendation]) -> list[Recommendation]:
    """Mark the best of each norm: the fastest recommended step, else the most memory left.

    Variants are ranked only within one model, resolution and norm.
    """

    def merit(item: Recommendation) -> tuple[bool, float, float, int]:
        measured = item.trial.measurement if item.trial else None
        rate = measured.images_per_second if measured else None
        has_failed = item.trial is not None and not item.trial.ran
        return not has_failed, rate or 0.0, -item.plan.accumulation_steps, item.safe

    best: dict[tuple[object, ...], Recommendation] = {}
    for item in recommendations:
        rival = best.get(item.variant.comparison_group)
        if rival is None or merit(item) > merit(rival):
            best[item.variant.comparison_group] = item
    winners = {id(item) for item in best.values()}
    return [replace(item, starred=id(item) in winners) for item in recommendations]
