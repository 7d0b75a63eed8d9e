"""Comparison of runs: regressions, missing figures and noise."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsprobe.analysis.compare import Check, State, compare
from bsprobe.analysis.equal_trials import step_noise
from bsprobe.analysis.thresholds import DEFAULT_THRESHOLDS, Metric, parse_threshold
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import NotComparableError
from bsprobe.records.growth import Growth
from bsprobe.records.runs import Boundary, Run, StopReason
from bsprobe.records.trials import Measurement, Peak, Purpose, Source, Trial
from bsprobe.records.units import MIB
from bsprobe.records.variants import Variant
from tests.support.builders import AMP, VARIANT, probed_run, ran, settings


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Largest batches: 12 in fp32, 24 in mixed precision."""
    return probed_run(tmp_path_factory.mktemp("run"), settings(VARIANT, AMP))


def with_measurements(run: Run, change: Callable[[Trial, Measurement], Measurement]) -> Run:
    """A run whose trials have changed measurements."""
    return replace(
        run,
        trials=tuple(
            trial
            if trial.measurement is None
            else replace(trial, measurement=change(trial, trial.measurement))
            for trial in run.trials
        ),
    )


def with_boundary(run: Run, variant: Variant, boundary: Boundary) -> Run:
    return replace(
        run,
        results=tuple(
            replace(result, boundary=boundary) if result.variant == variant else result
            for result in run.results
        ),
    )


def growing(run: Run, count: int) -> Run:
    """Every trial takes so many bytes more, allocated and reserved."""

    def grown(peak: Peak) -> Peak:
        assert peak.reserved_bytes is not None
        return Peak(
            allocated_bytes=peak.allocated_bytes + count,
            reserved_bytes=peak.reserved_bytes + count,
        )

    return with_measurements(
        run,
        lambda _, m: replace(m, first_step=grown(m.first_step), steady=grown(m.steady)),
    )


def states(baseline: Run, run: Run, *thresholds: str) -> dict[tuple[Variant, str], State]:
    found = compare(baseline, run, [parse_threshold(text) for text in thresholds])
    return {(check.variant, str(check.threshold.metric)): check.state for check in found.checks}


def only(baseline: Run, run: Run, threshold: str, variant: Variant = VARIANT) -> Check:
    found = compare(baseline, run, [parse_threshold(threshold)])
    (check,) = [check for check in found.checks if check.variant == variant]
    return check


def growth(check: Check) -> float:
    assert check.run is not None
    assert check.baseline is not None
    return check.run - check.baseline


ALL = (
    "max-batch:0", "safe-batch:0", "peak:0", "peak-allocated:0", "peak-reserved:0",
    "memory-per-image:0", "throughput:0",
)  # fmt: skip


def test_a_run_is_no_worse_than_itself_by_any_metric(baseline: Run) -> None:
    found = compare(baseline, baseline, [parse_threshold(text) for text in ALL])
    assert {check.state for check in found.checks} == {State.OK}
    assert len(found.checks) == 2 * len(Metric)
    assert (found.failing, found.notes) == ((), ())


def test_memory_beyond_the_threshold_is_a_regression_at_the_worst_trial(baseline: Run) -> None:
    grown = growing(baseline, 400 * MIB)
    check = only(baseline, grown, "peak-allocated:300MiB")
    assert (check.state, check.fails) == (State.REGRESSED, True)
    assert growth(check) == 400 * MIB
    assert only(baseline, grown, "peak-allocated:500MiB").state is State.OK
    # The share is the largest at the smallest peak.
    assert only(baseline, grown, "peak:5%").at == "1"
    assert only(baseline, growing(baseline, -400 * MIB), "peak:1%").state is State.IMPROVED
    assert only(baseline, growing(baseline, -400 * MIB), "peak:500MiB").state is State.OK


def test_a_threshold_is_met_by_equality_and_passed_by_one_byte(baseline: Run) -> None:
    one_more = growing(baseline, 100 * MIB + 1)
    assert only(baseline, growing(baseline, 100 * MIB), "peak-allocated:100MiB").state is State.OK
    assert only(baseline, one_more, "peak-allocated:100MiB").state is State.REGRESSED


def test_a_model_that_takes_more_by_the_image_is_found_by_its_slope(baseline: Run) -> None:
    def grow(trial: Trial, m: Measurement) -> Measurement:
        more = trial.spec.batch_size * 10 * MIB
        first = replace(m.first_step, allocated_bytes=m.first_step.allocated_bytes + more)
        return replace(m, first_step=first)

    check = only(baseline, with_measurements(baseline, grow), "memory-per-image:5MiB")
    assert (check.state, check.at) == (State.REGRESSED, "1 to 12")
    assert growth(check) == pytest.approx(10 * MIB)
    assert check.noise == 0
    # Each end has the noise of equal trials on the CPU.
    check = only(on_cpu(baseline), on_cpu(baseline), "memory-per-image:0")
    assert check.noise == pytest.approx(2 * 8 * MIB / 11)


def test_cuda_reserves_in_segments_so_that_one_more_may_be_noise(baseline: Run) -> None:
    found = states(baseline, growing(baseline, 20 * MIB), "peak-reserved:0", "peak-allocated:0")
    assert found[VARIANT, "peak-reserved"] is State.WITHIN_NOISE
    assert found[VARIANT, "peak-allocated"] is State.REGRESSED
    more = growing(baseline, 20 * MIB + 1)
    assert only(baseline, more, "peak-reserved:0").state is State.REGRESSED


def on_cpu(run: Run) -> Run:
    return replace(run, device=replace(run.device, kind=DeviceKind.CPU))


def test_the_cpu_is_allowed_what_equal_trials_differ_by(baseline: Run) -> None:
    before = on_cpu(baseline)
    assert only(before, growing(before, 8 * MIB), "peak:0").state is State.WITHIN_NOISE
    check = only(before, growing(before, 8 * MIB + 1), "peak:0")
    assert (check.state, check.noise) == (State.REGRESSED, 8 * MIB)


def test_a_prediction_has_no_noise(baseline: Run) -> None:
    predicted = replace(baseline, device=replace(baseline.device, source=Source.PREDICTED))
    check = only(predicted, growing(predicted, 1), "peak-reserved:0")
    assert (check.state, check.noise) == (State.REGRESSED, 0.0)


def with_repeated(run: Run, peak_bytes: int) -> Run:
    """A second trial at batch 1."""
    return replace(run, trials=(*run.trials, ran(1, peak_bytes)))


def test_what_repeated_trials_differ_by_is_noise(baseline: Run) -> None:
    # 3.5 GiB at batch 1, reserved and outside together.
    first = only(baseline, baseline, "peak:0").baseline
    assert first is not None
    before = with_repeated(baseline, int(first) - 100 * MIB)
    grown = growing(baseline, 90 * MIB)
    assert only(baseline, grown, "peak:0").state is State.REGRESSED
    alone = replace(before, trials=tuple(t for t in before.trials if t.spec.batch_size == 1))
    check = only(alone, grown, "peak:0")
    assert (check.at, check.state, check.noise) == ("1", State.WITHIN_NOISE, 100 * MIB)
    # The largest peak counts on both sides.
    assert (check.baseline, check.run) == (first, first + 90 * MIB)
    smaller = replace(alone, trials=tuple(reversed(alone.trials)))
    check = only(baseline, smaller, "peak:0")
    assert (check.run, check.noise) == (first, 100 * MIB)


def faster(run: Run, factor: float, *seconds: float) -> Run:
    def change(_: Trial, m: Measurement) -> Measurement:
        assert m.images_per_second is not None
        return replace(
            m,
            images_per_second=m.images_per_second * factor,
            step_seconds=seconds or m.step_seconds,
        )

    return with_measurements(run, change)


def test_throughput_is_compared_at_the_largest_trial_beyond_the_spread_of_steps(
    baseline: Run,
) -> None:
    steady = faster(baseline, 1.0, 0.5, 0.5, 0.5)
    slower = faster(baseline, 0.85, 0.5, 0.5, 0.5)
    check = only(steady, slower, "throughput:10%")
    assert (check.state, check.at, check.noise) == (State.REGRESSED, "12", 0.0)
    assert only(steady, slower, "throughput:20%").state is State.OK
    assert only(steady, faster(steady, 1.2), "throughput:10%").state is State.IMPROVED
    uneven = faster(baseline, 0.85, 0.45, 0.5, 0.9)
    assert only(steady, uneven, "throughput:10%").state is State.WITHIN_NOISE


def test_throughput_is_not_compared_at_a_trial_that_was_to_decide_memory_alone(
    baseline: Run,
) -> None:
    def cut(trial: Trial, measured: Measurement) -> Measurement:
        is_largest = trial.spec.batch_size == 12
        return replace(measured, step_seconds=measured.step_seconds[: 1 if is_largest else None])

    check = only(with_measurements(baseline, cut), baseline, "throughput:10%")
    assert (check.state, check.at) == (State.OK, "11")


def test_one_slow_step_does_not_excuse_a_slow_run() -> None:
    assert step_noise((0.5, 0.5, 60.0)) == 0
    assert step_noise((0.4, 0.5, 60.0)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("largest", "threshold", "state"),
    [
        (12, "max-batch:0", State.OK),
        (13, "max-batch:0", State.IMPROVED),
        (11, "max-batch:0", State.REGRESSED),
        (11, "max-batch:1", State.OK),
        (10, "max-batch:1", State.REGRESSED),
        (11, "max-batch:10%", State.OK),
        (10, "max-batch:10%", State.REGRESSED),
    ],
)
def test_the_largest_batch_may_shrink_by_the_threshold(
    baseline: Run, largest: int, threshold: str, state: State
) -> None:
    boundary = Boundary(stop=StopReason.PROVEN, largest=largest, first_failure=largest + 1)
    assert only(baseline, with_boundary(baseline, VARIANT, boundary), threshold).state is state


def test_nothing_fits_is_a_largest_batch_of_zero(baseline: Run) -> None:
    nothing = Boundary(stop=StopReason.NOTHING_FITS, first_failure=1)
    now = with_boundary(baseline, VARIANT, nothing)
    check = only(baseline, now, "max-batch:0")
    assert (check.state, check.baseline, check.run) == (State.REGRESSED, 12, 0)
    assert only(now, baseline, "max-batch:0").state is State.IMPROVED


@pytest.mark.parametrize("stop", [StopReason.MAX_BATCH, StopReason.TIME])
def test_a_search_that_stopped_early_does_not_pass(baseline: Run, stop: StopReason) -> None:
    early = with_boundary(baseline, VARIANT, Boundary(stop=stop, largest=4))
    found = compare(baseline, early, [parse_threshold(text) for text in ALL])
    failing = {str(check.threshold.metric): check for check in found.failing}
    assert failing.keys() == {str(metric) for metric in Metric} - {"safe-batch"}
    assert {check.state for check in failing.values()} == {State.MISSING}
    assert f"at least 4 ({stop})" in failing["max-batch"].detail
    assert (
        failing["peak"].detail == f"the run stopped at batch 4 ({stop}), the baseline went up to 12"
    )
    # It is enough to go as far as the baseline.
    as_far = with_boundary(baseline, VARIANT, Boundary(stop=stop, largest=12))
    assert only(baseline, as_far, "max-batch:0").state is State.OK
    assert only(baseline, as_far, "peak:0").state is State.OK


def test_a_variant_that_is_missing_fails_every_metric(baseline: Run) -> None:
    short = replace(
        baseline,
        results=baseline.results[:1],
        trials=tuple(t for t in baseline.trials if t.spec.variant == VARIANT),
    )
    found = compare(baseline, short, [parse_threshold(text) for text in ALL])
    assert [(c.variant, c.state, c.detail) for c in found.failing] == [
        (AMP, State.MISSING, "the run has no such variant")
    ] * len(ALL)


def test_a_variant_that_is_new_is_said_and_passes(baseline: Run) -> None:
    short = replace(baseline, results=baseline.results[:1])
    found = states(short, baseline, "max-batch:0", "peak:0")
    assert found == {
        (variant, metric): state
        for variant, state in ((VARIANT, State.OK), (AMP, State.NEW))
        for metric in ("max-batch", "peak")
    }


def test_a_failed_search_fails_even_where_figures_are_left(baseline: Run) -> None:
    failed = Boundary(stop=StopReason.FAILED, largest=8, detail="ValueError: no")
    check = only(baseline, with_boundary(baseline, VARIANT, failed), "peak:0")
    assert (check.state, check.detail) == (State.MISSING, "the run failed: ValueError: no")


def test_a_figure_that_is_missing_from_the_run_alone_fails(baseline: Run) -> None:
    untimed = with_measurements(
        baseline, lambda _, m: replace(m, images_per_second=None, step_seconds=())
    )
    check = only(baseline, untimed, "throughput:50%")
    assert check.state is State.MISSING
    assert "ran in both" in check.detail
    with pytest.raises(NotComparableError, match="no figure of throughput"):
        compare(untimed, baseline, [parse_threshold("throughput:50%")])


def test_trials_of_other_batches_or_on_synthetic_images_are_not_compared(baseline: Run) -> None:
    elsewhere = replace(
        baseline,
        trials=tuple(
            replace(t, spec=replace(t.spec, batch_size=t.spec.batch_size + 1000))
            for t in baseline.trials
        ),
    )
    assert only(baseline, elsewhere, "peak:50%").state is State.MISSING
    compared = replace(
        baseline,
        trials=tuple(replace(t, purpose=Purpose.COMPARISON) for t in baseline.trials),
    )
    assert only(baseline, compared, "peak:50%").state is State.MISSING


def test_an_empty_baseline_is_nothing_to_compare_with(baseline: Run) -> None:
    with pytest.raises(NotComparableError, match="no figure of max-batch"):
        compare(replace(baseline, results=()), baseline, DEFAULT_THRESHOLDS)


def leaking(run: Run, bytes_per_step: int) -> Run:
    """A run whose trials record the ends of steps; its results state the growth, if any."""

    def with_ends(_: Trial, measured: Measurement) -> Measurement:
        ends = tuple(100 + bytes_per_step * step for step in range(24))
        return replace(measured, allocated_after_steps=ends, steps=24, updates_applied=24)

    found = with_measurements(run, with_ends)
    if not bytes_per_step:
        return found
    growth = (Growth(batch=12, bytes_per_step=bytes_per_step, steps=24, full_at_step=99),)
    results = tuple(replace(each, recommendation=None, growth=growth) for each in run.results)
    return replace(found, results=results)


def test_memory_that_begins_to_grow_is_a_regression_of_every_batch(baseline: Run) -> None:
    thresholds = [parse_threshold("max-batch:0"), parse_threshold("safe-batch:0")]
    level, grown = leaking(baseline, 0), leaking(baseline, 5)
    checks = compare(level, grown, thresholds).checks
    assert {(check.state, "step 99" in check.detail) for check in checks} == {
        (State.REGRESSED, True)
    }
    # It grew before, or the older file does not say.
    for before in (grown, baseline):
        checks = compare(before, grown, thresholds[:1]).checks
        assert {check.state for check in checks} == {State.OK}
