"""Recommendations computed from proven boundaries."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.analysis.rates import rule_for, scaled_rate
from bsprobe.analysis.recommendation import (
    Limits,
    check_target,
    limits,
    plan,
    recipe_of,
    recommend,
    search_trials,
    split,
    starred,
)
from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import (
    REFERENCE,
    Boundary,
    Recommendation,
    StopReason,
    Target,
    TrainingPlan,
)
from bsprobe.records.trials import Ddp, Trial
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Norm, OptimizerName, Variant
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import from_json, to_json
from tests.support.builders import AMP, FOUND, GROUPS, UNUSUAL, VARIANT, broke, item, ran

LINEAR, SQRT = LearningRateRule.LINEAR, LearningRateRule.SQRT
RATES = ASKED["base_learning_rate"]
PROVEN = Boundary(stop=StopReason.PROVEN, largest=8, first_failure=9)


def curve(*points: tuple[int, float], rate: float | None = None) -> list[Trial]:
    """Trials that ran, from batches and their peaks in GiB."""
    return [ran(batch, int(peak * GIB), rate) for batch, peak in points]


def rates(**by_batch: float) -> list[Trial]:
    """Trials that ran, from batches and their images per second; all are small."""
    return [ran(int(name[1:]), GIB, rate) for name, rate in by_batch.items()]


def limits_of(
    trials: list[Trial], *, capacity: float = 100, headroom: float = 0.05, largest: int = 0
) -> Limits:
    most = largest or max(trial.spec.batch_size for trial in trials)
    return limits(
        trials,
        candidates=range(most, 0, -1),
        largest=most,
        budget_bytes=Target(headroom=headroom).budget_bytes(int(capacity * GIB)),
    )


# Largest, safe and best.


@pytest.mark.parametrize(
    ("capacity", "headroom", "safe"),
    [
        (20, 0.05, 9),  # 19 GiB and less: exactly batch 9
        (20, 0.06, 8),
        (20, 0.0, 9),
        (22, 0.05, 10),  # 20.9: batch 10 was measured at 20.5
        (24, 0.15, 9),
        (24, 0.5, 5),  # 12: between 4 at 9 and 8 at 16, batch 5 takes 10.75 and 6 takes 12.5
        (24, 0.9, None),
    ],
)
def test_safe_leaves_a_share_of_the_bytes_free(
    capacity: float, headroom: float, safe: int | None
) -> None:
    trials = curve((1, 4), (2, 5.5), (4, 9), (8, 16), (9, 19), (10, 20.5))
    found = limits_of(trials, capacity=capacity, headroom=headroom)
    assert (found.largest, found.safe, found.keeps_headroom) == (10, safe or 1, safe is not None)


def test_safe_between_two_measured_batches_is_interpolated_between_them() -> None:
    # The two largest are adjacent, and rounding makes their line nearly flat.
    trials = curve((1, 4), (8, 18), (11, 24.6), (12, 24.7))
    assert limits_of(trials, capacity=24).safe == 10  # 22.8; batch 10 takes about 22.4
    assert limits_of(trials, capacity=22, headroom=0).safe == 9  # 10 takes more than 22
    # Or steep: then the line would leave far too much room for batch 10.
    trials = curve((1, 4), (8, 18), (11, 24), (12, 30))
    assert limits_of(trials, capacity=21).safe == 8  # 19.95; batch 9 takes about 20


def test_safe_is_at_least_the_smallest_batch_that_ran() -> None:
    trials = curve((3, 10), (4, 19.5))
    assert limits_of(trials, capacity=20, headroom=0.9) == Limits(
        largest=4, safe=3, best=3, best_is_measured=False, keeps_headroom=False
    )


def test_safe_is_never_a_batch_that_ran_with_retries_alone() -> None:
    # 12 ran only with retries, although the peaks around it leave room.
    slow = ran(12, outcome=Outcome.FITS_WITH_RETRIES)
    assert limits_of([*curve((4, 6), (11, 13)), slow], capacity=16).safe == 11
    assert limits_of([*curve((4, 6), (13, 14)), slow], capacity=14.5).safe == 11
    # In a fresh process the same batch ran without retries.
    assert limits_of([slow, *curve((4, 6), (12, 13))], capacity=16).safe == 12


@pytest.mark.parametrize(
    ("before", "safe"),
    [
        (9, 10),  # 2 GiB an image before, 2.2 towards 11: batch 10 takes 21.4 of 22.4
        (5, 9),  # 3 an image before: 9 takes 20 and 10 takes 23, whatever 11 got
        (16.9, 10),
    ],
)
def test_safe_lies_between_the_last_with_room_and_one_that_ran_with_retries(
    before: float, safe: int
) -> None:
    short = ran(11, int(23.6 * GIB), outcome=Outcome.FITS_WITH_RETRIES)
    trials = [*curve((4, before), (8, 17)), short]
    assert limits_of(trials, capacity=23.6).safe == safe


def test_where_all_ran_with_retries_alone_nothing_leaves_headroom() -> None:
    slow = Outcome.FITS_WITH_RETRIES
    assert limits_of([ran(2, outcome=slow), ran(3, outcome=slow)]) == Limits(
        largest=3, safe=2, best=2, best_is_measured=True, keeps_headroom=False
    )


def test_safe_never_exceeds_the_largest() -> None:
    # Batch 12 ran in a used process and failed in a fresh one: largest is 11.
    assert limits_of(curve((8, 10), (11, 12), (12, 13)), largest=11).safe == 11


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        (rates(b1=10, b2=20, b4=30, b8=31), 8),
        (rates(b1=10, b2=20, b4=30.38, b8=31), 4),  # 2 % below 31
        (rates(b1=10, b2=20, b4=30.37, b8=31), 8),
        (rates(b1=10, b2=40, b4=35, b8=31), 2),
        (rates(b4=5), 4),
    ],
)
def test_best_is_the_smallest_batch_within_two_percent_of_the_fastest(
    trials: list[Trial], best: int
) -> None:
    found = limits_of(trials)
    assert (found.best, found.best_is_measured) == (best, True)


def test_the_better_of_two_trials_of_a_batch_counts() -> None:
    trials = [ran(4, GIB, 31.0), ran(4, GIB, 20.0), ran(8, GIB, 31.0)]
    assert limits_of(trials).best == 4


def test_throughput_beyond_safe_does_not_count() -> None:
    trials = [ran(4, GIB, 20.0), ran(8, 10 * GIB, 90.0)]
    assert limits_of(trials, capacity=10) == Limits(
        largest=8, safe=7, best=4, best_is_measured=True, keeps_headroom=True
    )


def test_a_trial_that_was_timed_for_fewer_steps_than_others_is_not_the_fastest() -> None:
    four, eight = ran(4, GIB, 20.0), ran(8, GIB, 90.0)
    eight = replace(eight, spec=replace(eight.spec, measured_steps=1))
    found = limits_of([four, eight])
    assert (found.safe, found.best, found.best_is_measured) == (8, 4, True)


def test_without_throughput_best_is_safe() -> None:
    trials = curve((4, 10), (8, 18), (9, 20))
    assert limits_of(trials, capacity=20) == Limits(
        largest=9, safe=8, best=8, best_is_measured=False, keeps_headroom=True
    )


def test_the_trials_of_a_search_ran_without_accumulation_and_belong_to_the_variant() -> None:
    mine = [ran(1), ran(2, outcome=Outcome.FITS_WITH_RETRIES)]
    others = [ran(1, variant=AMP), broke(4), ran(2, accumulation_steps=2)]
    assert search_trials([mine[0], *others, mine[1]], VARIANT) == mine


# The split.


@pytest.mark.parametrize(
    ("target", "safe", "expected"),
    [
        (10, 8, (5, 2)),
        (10, 10, (10, 1)),
        (10, 100, (10, 1)),
        (10, 4, (4, 3)),  # the divisor 2 would waste half
        (16, 6, (4, 4)),  # 6 x 3 were 18; 4 is exactly two thirds
        (16, 5, (4, 4)),
        (10, 3, (2, 5)),  # 3 x 4 were 12; 2 is exactly two thirds of 3
        (7, 4, (4, 2)),
        (7, 6, (4, 2)),
        (10, 1, (1, 10)),
        (1, 5, (1, 1)),
    ],
)
def test_a_target_is_split(target: int, safe: int, expected: tuple[int, int]) -> None:
    assert split(target, safe) == expected


@given(st.integers(1, 500), st.integers(1, 200))
def test_a_split_follows_the_rule(target: int, safe: int) -> None:
    micro, steps = split(target, safe)
    plain_steps = math.ceil(target / safe)
    plain = math.ceil(target / plain_steps)
    divisor = max(d for d in range(1, safe + 1) if target % d == 0)
    assert 1 <= micro <= safe
    assert micro * steps >= target
    if 3 * divisor >= 2 * plain:
        assert (micro, steps) == (divisor, target // divisor)
    else:
        assert (micro, steps) == (plain, plain_steps)


# The learning rate and the plan.


@pytest.mark.parametrize(
    ("optimizer", "asked", "rule"),
    [
        (OptimizerName.SGD, None, LINEAR),
        (OptimizerName.ADAMW, None, SQRT),
        (OptimizerName.SGD, "sqrt", SQRT),
        (OptimizerName.ADAMW, "linear", LINEAR),
    ],
)
def test_the_rule_is_the_one_asked_for_else_the_optimizers_own(
    optimizer: OptimizerName, asked: str | None, rule: LearningRateRule
) -> None:
    assert rule_for(Target(lr_rule=asked), optimizer) is rule


@pytest.mark.parametrize(
    ("effective", "rule", "rate"),
    [
        (10, LINEAR, 2.5e-4),
        (20, LINEAR, 5e-4),
        (5, LINEAR, 1.25e-4),
        (10, SQRT, 2.5e-4),
        (40, SQRT, 5e-4),
        (16, SQRT, 2.5e-4 * math.sqrt(1.6)),
    ],
)
def test_the_rate_follows_the_effective_batch(
    effective: int, rule: LearningRateRule, rate: float
) -> None:
    assert scaled_rate(REFERENCE, effective, rule) == pytest.approx(rate, rel=1e-12)


def test_a_plan_at_the_reference_batch_is_the_reference() -> None:
    assert plan(VARIANT, REFERENCE, micro_batch=5, steps=2, groups=dict(GROUPS)) == TrainingPlan(
        micro_batch=5,
        accumulation_steps=2,
        effective_batch=10,
        learning_rate=2.5e-4,
        group_learning_rates=(
            ("backbone", 2.5e-4),
            ("head weights", 2.5e-3),
            ("head biases", 5e-3),
        ),
        lr_rule=LINEAR,
        updates=20_000,
        warmup_updates=0,
    )


def test_a_plan_above_the_reference_batch_warms_up() -> None:
    target = Target(batch=16, base_batch=8, base_learning_rate=1e-2, base_updates=1000)
    assert plan(VARIANT, target, micro_batch=4, steps=4, groups={"all": 0.5}) == TrainingPlan(
        micro_batch=4,
        accumulation_steps=4,
        effective_batch=16,
        learning_rate=2e-2,
        group_learning_rates=(("all", 1e-2),),
        lr_rule=LINEAR,
        updates=500,
        warmup_updates=25,
    )


@pytest.mark.parametrize("rate", [RATES.least, RATES.most])
@pytest.mark.parametrize("base_batch", [1, int(ASKED["base_batch"].most)])
@pytest.mark.parametrize("batch", [1, int(ASKED["batch"].most)])
@pytest.mark.parametrize("processes", [1, int(ASKED["processes"].most)])
def test_a_plan_of_extremes_is_one_that_files_take(
    rate: float, base_batch: int, batch: int, processes: int
) -> None:
    groups = {"all": 1.0, "frozen": ASKED["groups"].least, "fast": ASKED["groups"].most}
    for updates, rule, fits in itertools.product(
        (1, int(ASKED["base_updates"].most)), LearningRateRule, (1, int(ASKED["max_batch"].most))
    ):
        target = Target(
            batch=batch,
            base_batch=base_batch,
            base_learning_rate=rate,
            base_updates=updates,
            lr_rule=rule.value,
        )
        found = replace(FOUND, largest=fits, safe=fits, best=fits)
        made = recommend(VARIANT, found, target, groups=groups, processes=processes)
        check_figures(made)
        text = json.dumps(to_json(made), allow_nan=False)
        assert from_json(Recommendation, json.loads(text)) == made


@given(
    micro=st.integers(1, 64),
    steps=st.integers(1, 16),
    base_batch=st.integers(1, 64),
    base_updates=st.integers(1, 200_000),
)
def test_a_plan_keeps_the_images_seen_and_warms_up_only_when_scaled_up(
    micro: int, steps: int, base_batch: int, base_updates: int
) -> None:
    target = Target(base_batch=base_batch, base_learning_rate=0.1, base_updates=base_updates)
    made = plan(UNUSUAL, target, micro_batch=micro, steps=steps, groups={})
    updates = made.known_updates
    assert updates >= 1
    assert updates == 1 or (
        abs(updates * micro * steps - base_updates * base_batch) <= micro * steps / 2
    )
    is_scaled_up = micro * steps > base_batch
    assert made.warmup_updates == (round(0.05 * updates) if is_scaled_up else 0)
    assert made.lr_rule == "sqrt"


def test_a_recommendation_puts_the_numbers_together() -> None:
    found = replace(FOUND, safe=8, best=4, best_is_measured=False)
    groups = dict(GROUPS)
    assert recommend(VARIANT, found, REFERENCE, groups=groups) == Recommendation(
        variant=VARIANT,
        largest=12,
        safe=8,
        best=4,
        best_is_measured=False,
        plan=plan(VARIANT, REFERENCE, micro_batch=5, steps=2, groups=groups),
        without_accumulation=plan(VARIANT, REFERENCE, micro_batch=4, steps=1, groups=groups),
    )


@pytest.mark.parametrize(
    ("most", "split_up"), [(None, (5, 2)), (4, (4, 3)), (1, (1, 10)), (0, (4, 1))]
)
def test_accumulation_stays_below_what_was_seen_to_fail(
    most: int | None, split_up: tuple[int, int]
) -> None:
    found = replace(FOUND, safe=8, best=4)
    made = recommend(VARIANT, found, REFERENCE, groups=dict(GROUPS), most_accumulated=most)
    assert (made.plan.micro_batch, made.plan.accumulation_steps) == split_up
    assert (made.safe, made.best) == (8, 4)
    assert made.reaches_target is (most != 0)
    assert (made.plan == made.without_accumulation) is (most == 0)


# The star.


def stars(*items: Recommendation) -> list[bool]:
    marked = starred(items)
    assert [replace(one, starred=False) for one in marked] == list(items)
    return [one.starred for one in marked]


def test_the_star_goes_to_the_fastest() -> None:
    assert stars(item(VARIANT, 20.0), item(AMP, 31.0)) == [False, True]
    assert stars(item(VARIANT, 32.0, safe=3), item(AMP, 31.0)) == [True, False]


@pytest.mark.parametrize(
    "other",
    [
        replace(AMP, norm=Norm.GROUP),
        replace(AMP, model="another"),
        replace(AMP, resolution=Resolution(height=256, width=512)),
    ],
)
def test_another_norm_model_or_resolution_never_competes(other: Variant) -> None:
    assert stars(item(VARIANT, 20.0), item(other, 90.0), item(AMP, 10.0)) == [True, True, False]


def test_without_throughput_the_star_goes_to_the_fewest_steps_then_the_most_room() -> None:
    assert stars(item(VARIANT, safe=5), item(AMP, safe=10)) == [False, True]
    assert stars(item(VARIANT, safe=12), item(AMP, safe=11)) == [True, False]


def test_of_equals_the_first_gets_the_star() -> None:
    assert stars(item(VARIANT, 20.0), item(AMP, 20.0)) == [True, False]


@pytest.mark.parametrize("rate", [None, 5.0])
def test_a_plan_that_failed_never_beats_one_that_ran(rate: float | None) -> None:
    failed = replace(item(VARIANT, safe=10), trial=broke(10))
    assert stars(failed, item(AMP, rate, safe=2)) == [False, True]


def test_nothing_to_choose_from_gets_no_star() -> None:
    assert starred([]) == []


def test_each_process_takes_its_share_of_the_effective_batch() -> None:
    target = replace(REFERENCE, batch=64)
    made = recommend(VARIANT, FOUND, target, groups=dict(GROUPS), processes=4)
    assert (made.plan.micro_batch, made.plan.accumulation_steps) == (8, 2)
    assert (made.plan.processes, made.plan.effective_batch) == (4, 64)
    assert made.plan.learning_rate == pytest.approx(64 / 10 * 2.5e-4)
    assert made.without_accumulation.effective_batch == 8 * 4


def test_an_effective_batch_that_cannot_be_shared_out_is_exceeded() -> None:
    made = recommend(VARIANT, FOUND, Target(batch=10), groups=dict(GROUPS), processes=4)
    assert (made.plan.micro_batch, made.plan.effective_batch) == (3, 12)


@pytest.mark.parametrize(("target", "reaches"), [(16, True), (64, False)])
def test_a_static_graph_is_trained_without_accumulation(
    target: int,
    reaches: bool,  # noqa: FBT001 - parametrized
) -> None:
    static = Ddp.STATIC_GRAPH
    wanted = Target(batch=target)
    found = recommend(VARIANT, FOUND, wanted, groups=dict(GROUPS), processes=2, ddp=static)
    assert (found.plan.accumulation_steps, found.plan.ddp) == (1, static)
    assert (found.reaches_target, found.plan.effective_batch >= target) == (reaches, reaches)


@pytest.mark.parametrize(
    ("optimizer", "formula"),
    [
        (OptimizerName.SGD, "lr * (9 / your batch)"),
        (OptimizerName.ADAMW, "lr * sqrt(9 / your batch)"),
    ],
)
def test_without_a_target_or_a_rate_the_best_batch_is_taken_and_the_rate_is_a_factor(
    optimizer: OptimizerName, formula: str
) -> None:
    variant = replace(VARIANT, model="unet.py:build", optimizer=optimizer)
    found = replace(FOUND, safe=11, best=9)
    made = recommend(variant, found, recipe_of(variant, Target()), groups=dict(GROUPS))
    assert made.plan == made.without_accumulation
    assert (made.plan.micro_batch, made.plan.accumulation_steps) == (9, 1)
    assert (made.plan.learning_rate, made.plan.group_learning_rates) == (None, ())
    assert made.plan.rate_formula == formula
    assert (made.plan.updates, made.plan.warmup_updates, made.plan.schedule) == (None, None, None)
    assert made.reaches_target
    assert from_json(Recommendation, json.loads(json.dumps(to_json(made)))) == made


def test_a_batch_without_a_rate_is_written_into_the_factor() -> None:
    variant = replace(VARIANT, model="unet.py:build")
    made = recommend(variant, FOUND, Target(batch=32, base_batch=16), groups={})
    assert made.plan.rate_formula == f"lr * ({made.plan.effective_batch} / 16)"
    assert made.plan.updates is None


def test_updates_beside_an_unknown_rate_as_in_older_files_are_no_schedule() -> None:
    variant = replace(VARIANT, model="unet.py:build")
    made = plan(variant, Target(), micro_batch=8, steps=1, groups={})
    older = replace(made, updates=25_000, warmup_updates=1250)
    assert older.schedule is None
    assert from_json(TrainingPlan, json.loads(json.dumps(to_json(older)))) == older


@pytest.mark.parametrize("model", ["deeplabv2-resnet101", "deeplabv2-mini"])
def test_what_nobody_said_of_deeplabv2_is_as_its_paper_has_it(model: str) -> None:
    variant = replace(VARIANT, model=model)
    assert recipe_of(variant, Target()) == REFERENCE
    asked = Target(batch=4, base_batch=2, base_learning_rate=0.1)
    assert recipe_of(variant, asked) == asked


def test_a_rate_without_its_batch_is_refused_naming_both() -> None:
    with pytest.raises(UsageError, match="--base-lr needs --base-batch"):
        check_target(Target(base_learning_rate=0.1))
    check_target(Target(base_batch=8))
