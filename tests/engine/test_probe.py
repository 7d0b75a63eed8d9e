"""Runs on a stub GPU whose memory is computed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.analysis.search import Process
from bsprobe.engine.probe import RunTrial
from bsprobe.records.errors import FileError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import Boundary, Recommendation, Run, Settings, StopReason, Target
from bsprobe.records.trials import Failure, Purpose, Trial, TrialSpec
from bsprobe.records.units import GIB, MIB
from bsprobe.storage.journal import read_journal
from tests.support.builders import (
    AMP,
    DEVICE,
    ENVIRONMENT,
    GROUP,
    GROUPS,
    VARIANT,
    ArithmeticGpu,
    Silence,
    affine_need,
    broke,
    failure,
    probed_run,
    settings,
)
from tests.support.script_runs import INSIDE, Made

ANY, FRESH = Process.ANY, Process.FRESH
Asked = tuple[int, int, Process]


class Bench:
    """Makes runs, and keeps the listener and the journal of the last one.

    Attributes:
        listener: The listener, with the events that it received.
        journalled: The trials in the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0
        self.listener = Silence()
        self.journalled: tuple[Trial, ...] = ()

    def probe(
        self,
        gpu: Callable[..., Trial],
        chosen: Settings | None = None,
        known: Sequence[Trial] = (),
    ) -> Run:
        folder = self._folder / str(self._runs)
        self._runs += 1
        self.listener = Silence()
        try:
            return probed_run(
                folder,
                chosen or settings(VARIANT),
                run_trial=gpu,
                listener=self.listener,
                known=known,
            )
        finally:
            self.journalled = read_journal(folder).trials


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def recommended(run: Run) -> tuple[Recommendation, Trial]:
    """Return the recommendation of the first result, and its trial."""
    item = run.results[0].recommendation
    assert item is not None
    assert item.trial is not None
    return item, item.trial


def peak_of(trial: Trial) -> int:
    assert trial.measurement is not None
    return trial.measurement.peak_bytes


def asked(gpu: ArithmeticGpu) -> list[Asked]:
    return [(spec.batch_size, spec.accumulation_steps, process) for spec, process in gpu.asked]


def needing_more_to_accumulate(extra_bytes: int) -> Callable[[TrialSpec], int]:
    def needed(spec: TrialSpec) -> int:
        return affine_need(spec) + (extra_bytes if spec.accumulation_steps > 1 else 0)

    return needed


def test_a_run_finds_proves_and_recommends(bench: Bench) -> None:
    # 2 GiB and 1.5 GiB per image of 20 GiB: batch 12 fills it exactly, 11 leaves 5 %.
    gpu = ArithmeticGpu()
    run = bench.probe(gpu)
    (result,) = run.results
    assert asked(gpu) == [
        (1, 1, ANY),
        (2, 1, ANY),
        (4, 1, ANY),
        (8, 1, ANY),
        (16, 1, ANY),
        (12, 1, FRESH),
        (13, 1, FRESH),
        (11, 1, ANY),
        (10, 1, FRESH),
    ]
    assert result.boundary == Boundary(stop=StopReason.PROVEN, largest=12, first_failure=13)
    item, trial = recommended(run)
    # Throughput is 40 b/(b+2): 33.8 at 11, which was timed because it is safe.
    assert (item.largest, item.safe, item.best, item.best_is_measured) == (12, 11, 11, True)
    assert (item.plan.micro_batch, item.plan.accumulation_steps) == (10, 1)
    assert (item.without_accumulation.micro_batch, item.starred) == (11, True)
    assert [name for name, _ in item.plan.group_learning_rates] == [name for name, _ in GROUPS]
    assert trial == run.trials[-1]
    assert "alone: 10 images" in item.caveats[0]


def test_a_trial_that_is_expected_to_exceed_the_headroom_has_one_timed_step(bench: Bench) -> None:
    gpu = ArithmeticGpu()
    bench.probe(gpu)
    timed = [(spec.batch_size, spec.measured_steps) for spec, _ in gpu.asked]
    assert timed == [(1, 3), (2, 3), (4, 3), (8, 3), (16, 1), (12, 1), (13, 1), (11, 3), (10, 3)]


def longer_timed(trial: Trial) -> Trial:
    """Return a trial with three timed steps of the same median."""
    measured = trial.measurement
    if measured is not None:
        seconds = (measured.step_seconds * 3)[:3]
        measured = replace(measured, step_seconds=seconds)
    return replace(trial, spec=replace(trial.spec, measured_steps=3), measurement=measured)


def test_a_known_trial_with_more_timed_steps_is_not_run_again(
    bench: Bench,
) -> None:
    whole = bench.probe(ArithmeticGpu())
    longer = [longer_timed(trial) for trial in whole.trials]
    gpu = ArithmeticGpu()
    run = bench.probe(gpu, known=longer)
    assert (gpu.asked, run.results) == ([], whole.results)


def test_a_plan_with_one_timed_step_in_the_search_is_timed_in_full(bench: Bench) -> None:
    """12 images exceed the headroom by the line through smaller batches, but not when run."""

    def needed(spec: TrialSpec) -> int:
        return affine_need(spec) if spec.batch_size < 12 else affine_need(spec) - GIB

    gpu = ArithmeticGpu(needed)
    run = bench.probe(gpu, settings(VARIANT, target=Target(batch=12)))
    item, trial = recommended(run)
    assert (item.plan.micro_batch, trial.spec.measured_steps) == (12, 3)
    assert [s.measured_steps for s, _ in gpu.asked if s.batch_size == 12] == [1, 3]


def test_the_run_the_journal_and_the_listener_have_the_same_trials(bench: Bench) -> None:
    chosen = settings(VARIANT, AMP, GROUP)
    run = bench.probe(ArithmeticGpu(), chosen)
    assert (run.settings, run.device, run.environment) == (chosen, DEVICE, ENVIRONMENT)
    assert run.trials == bench.journalled == tuple(bench.listener.trials)
    assert [trial.spec for trial in run.trials] == bench.listener.started
    assert bench.listener.variants == [VARIANT, AMP, GROUP]
    assert [result.variant for result in run.results] == [VARIANT, AMP, GROUP]
    assert len(bench.listener.phases) == len(run.trials)
    assert [result.boundary.largest for result in run.results] == [12, 24, 12]


def test_each_trial_has_its_purpose(bench: Bench) -> None:
    run = bench.probe(ArithmeticGpu(), settings(VARIANT, target=Target(batch=16)))
    assert [trial.purpose for trial in run.trials] == (
        [Purpose.SEARCH] * 5 + [Purpose.PROOF] * 2 + [Purpose.SAFE, Purpose.RECOMMENDED]
    )
    assert run.trials[-1].fresh_process


def test_the_star_is_given_within_one_norm_over_the_whole_run(bench: Bench) -> None:
    run = bench.probe(ArithmeticGpu(), settings(VARIANT, AMP, GROUP, target=Target(batch=20)))
    stars = [result.recommendation and result.recommendation.starred for result in run.results]
    assert stars == [False, True, True]


def test_the_best_of_a_run_is_the_starred_one_of_the_first_norm(
    bench: Bench,
) -> None:
    run = bench.probe(ArithmeticGpu(), settings(VARIANT, GROUP, AMP))
    stars = [r.variant for r in run.results if r.recommendation and r.recommendation.starred]
    assert stars == [GROUP, AMP], "each norm has a star, and AMP is faster than fp32"
    assert run.best is not None
    assert run.best.variant == AMP
    other = bench.probe(ArithmeticGpu(), settings(GROUP, VARIANT, AMP)).best
    assert other is not None
    assert other.variant == GROUP


def test_a_plan_that_was_a_trial_of_the_search_is_not_run_again(bench: Bench) -> None:
    # 11 is the largest, safe, and the target; the search has run it in a fresh process.
    gpu = ArithmeticGpu(lambda spec: 3 * GIB + spec.batch_size * 1472 * MIB)
    _, trial = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=11))))
    assert asked(gpu)[-3:] == [(16, 1, ANY), (11, 1, FRESH), (12, 1, FRESH)]
    assert trial == bench.journalled[-2]


@pytest.mark.parametrize(
    ("extra", "plans"),
    [
        (0, [(11, 2)]),
        (3 * GIB, [(11, 2), (7, 3)]),  # 11 takes 21.8 GiB of 20; at most 10 is 7 x 3 = 21
        (8 * GIB, [(11, 2), (7, 3), (6, 4), (5, 5)]),  # 6 x 4 runs, beyond the headroom
    ],
)
def test_a_plan_that_runs_out_of_memory_gets_a_smaller_micro_batch(
    bench: Bench, extra: int, plans: list[tuple[int, int]]
) -> None:
    gpu = ArithmeticGpu(needing_more_to_accumulate(extra))
    run = bench.probe(gpu, settings(VARIANT, target=Target(batch=21)))
    tried = [(micro, steps) for micro, steps, _ in asked(gpu) if steps > 1]
    item, trial = recommended(run)
    assert tried == plans
    assert (item.plan.micro_batch, item.plan.accumulation_steps) == plans[-1]
    assert trial.outcome is Outcome.FITS
    assert trial == run.trials[-1]
    assert item.largest == 12
    # A failure with accumulation does not change the limits without it.
    assert (item.safe, item.best) == (11, 11)


def test_if_no_accumulation_runs_the_plan_is_the_batch_without_it(bench: Bench) -> None:
    gpu = ArithmeticGpu(needing_more_to_accumulate(19 * GIB))
    item, trial = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=20))))
    assert (item.reaches_target, item.plan) == (False, item.without_accumulation)
    assert (trial.outcome, trial.spec.batch_size) == (Outcome.FITS, 11)
    assert item.caveats[0].startswith("An effective batch of 20 did not run with any accumulation")


def test_a_plan_that_exceeds_the_headroom_is_replaced_by_a_smaller_one(bench: Bench) -> None:
    # 11 x 2 takes 19.5 of 20 GiB, which runs, but leaves less than 5 %; 7 x 3 leaves more.
    gpu = ArithmeticGpu(needing_more_to_accumulate(int(0.7 * GIB)))
    item, trial = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=21))))
    tried = [(micro, steps) for micro, steps, _ in asked(gpu) if steps > 1]
    assert tried == [(11, 2), (7, 3)]
    assert (item.plan.micro_batch, item.plan.accumulation_steps) == (7, 3)
    assert peak_of(trial) <= 0.95 * DEVICE.capacity_bytes


def test_the_safe_batch_has_run_within_the_headroom(bench: Bench) -> None:
    # By interpolation between 8 (14 GiB) and 12 (20 GiB), 11 takes 18.5 GiB of the 19 allowed. It
    # takes 19.5.
    gpu = ArithmeticGpu(lambda spec: affine_need(spec) + (GIB if spec.batch_size == 11 else 0))
    item, trial = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=11))))
    assert asked(gpu)[-3:] == [(11, 1, ANY), (10, 1, ANY), (6, 2, FRESH)]
    assert (item.largest, item.safe) == (12, 10)
    assert (item.plan.micro_batch, item.plan.accumulation_steps) == (6, 2)
    assert peak_of(trial) <= 0.95 * DEVICE.capacity_bytes


def test_if_a_safe_batch_takes_less_than_expected_the_next_one_is_tried(bench: Bench) -> None:
    # 16 GiB are allowed. By interpolation between 8 (14 GiB) and 12 (20 GiB), 9 is safe. It takes
    # 13.5, by which 10 takes 15.7. It takes 17.
    gpu = ArithmeticGpu(lambda spec: affine_need(spec) - (2 * GIB if spec.batch_size == 9 else 0))
    item, _ = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=7, headroom=0.2))))
    assert asked(gpu)[-3:] == [(9, 1, ANY), (10, 1, ANY), (7, 1, FRESH)]
    assert item.safe == 9


def test_a_batch_that_did_not_run_is_not_safe_below_a_larger_one_that_ran(bench: Bench) -> None:
    gpu = ArithmeticGpu(lambda spec: 21 * GIB if spec.batch_size == 11 else affine_need(spec))
    item, trial = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=21))))
    assert asked(gpu)[-3:] == [(11, 1, ANY), (10, 1, ANY), (7, 3, FRESH)]
    assert (item.largest, item.safe, item.best, trial.outcome) == (12, 10, 10, Outcome.FITS)


def test_a_batch_too_small_for_the_network_makes_no_other_unsafe(bench: Bench) -> None:
    def refuse_one_image(trial: Trial) -> Trial:
        refused = broke(1, Outcome.BATCH_TOO_SMALL)
        refused = replace(refused, spec=trial.spec, purpose=trial.purpose)
        return refused if trial.spec.batch_size == 1 else trial

    item, _ = recommended(bench.probe(ArithmeticGpu(alter=refuse_one_image)))
    assert (item.largest, item.safe, item.plan.micro_batch) == (12, 11, 10)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.KERNEL_LIMIT])
def test_a_plan_that_fails_for_another_reason_is_kept_with_a_caveat(
    bench: Bench, outcome: Outcome
) -> None:
    def spoil(trial: Trial) -> Trial:
        broken = replace(broke(1, outcome), spec=trial.spec, purpose=trial.purpose)
        return broken if trial.spec.accumulation_steps > 1 else trial

    gpu = ArithmeticGpu(alter=spoil)
    item, _ = recommended(bench.probe(gpu, settings(VARIANT, target=Target(batch=20))))
    assert [spec.batch_size for spec, _ in gpu.asked if spec.accumulation_steps > 1] == [10]
    assert item.safe == 11
    assert f"did not run ({outcome})" in item.caveats[0]


def test_nothing_is_recommended_if_nothing_fits(bench: Bench) -> None:
    gpu = ArithmeticGpu(capacity_bytes=2 * GIB)
    run = bench.probe(gpu, settings(VARIANT, AMP))
    assert [result.boundary.stop for result in run.results] == [StopReason.NOTHING_FITS] * 2
    assert [result.recommendation for result in run.results] == [None, None]
    assert asked(gpu) == [(1, 1, ANY), (1, 1, ANY)]
    assert bench.listener.results == list(run.results)


def failing(
    batch: int, outcome: Outcome, certainty: Certainty = Certainty.CERTAIN
) -> ArithmeticGpu:
    """Make a GPU on which trials of this batch and larger ones fail."""

    def fail(trial: Trial) -> Trial:
        if trial.spec.batch_size < batch:
            return trial
        why = failure(certainty=certainty)
        return replace(trial, outcome=outcome, measurement=None, failure=why)

    return ArithmeticGpu(alter=fail)


def test_a_bug_leaves_a_variant_without_recommendation_and_the_next_is_probed(
    bench: Bench,
) -> None:
    run = bench.probe(failing(2, Outcome.FAILED), settings(VARIANT, AMP))
    assert [result.boundary.stop for result in run.results] == [StopReason.FAILED] * 2
    assert [result.recommendation for result in run.results] == [None, None]
    assert len(run.trials) == 4


def test_a_variant_that_runs_out_of_host_memory_has_no_recommendation(bench: Bench) -> None:
    run = bench.probe(failing(4, Outcome.HOST_MEMORY), settings(VARIANT, AMP))
    for result in run.results:
        boundary = result.boundary
        assert (boundary.stop, boundary.largest) == (StopReason.HOST_MEMORY, 2)
        assert "host memory" in boundary.detail
        assert result.recommendation is None
    assert len(run.trials) == 6


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.HOST_MEMORY, Outcome.TIMED_OUT])
def test_if_the_safe_batch_fails_for_another_reason_than_memory_one_that_ran_is_safe(
    bench: Bench, outcome: Outcome
) -> None:
    """The boundary does not change, and no other untried batch is run."""

    def die(trial: Trial) -> Trial:
        why = failure("the process died", certainty=Certainty.UNEXPLAINED)
        lost = replace(trial, outcome=outcome, measurement=None, failure=why)
        return lost if trial.purpose is Purpose.SAFE else trial

    gpu = ArithmeticGpu(alter=die)
    run = bench.probe(gpu)
    item, _ = recommended(run)
    assert run.results[0].boundary.largest == 12
    assert (item.largest, item.safe) == (12, 8)
    assert asked(gpu)[-2:] == [(11, 1, ANY), (5, 2, FRESH)]


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (Outcome.HOST_MEMORY, failure("MemoryError")),
        (Outcome.OUT_OF_MEMORY, failure("the process died (killed by SIGKILL)")),
    ],
)
def test_a_resumed_run_repeats_a_trial_without_a_verdict(
    bench: Bench, outcome: Outcome, why: Failure
) -> None:
    undisturbed = bench.probe(ArithmeticGpu())
    known = [broke(8, outcome, why)]
    gpu = ArithmeticGpu()
    run = bench.probe(gpu, known=known)
    assert run.results == undisturbed.results
    assert (8, 1, ANY) in asked(gpu)


def test_the_certainty_of_a_failure_reaches_the_search(bench: Bench) -> None:
    gpu = failing(1, Outcome.OUT_OF_MEMORY, Certainty.PROBABLE)
    (result,) = bench.probe(gpu).results
    assert result.boundary.stop is StopReason.FAILED
    # The table says "1 out of memory", so the note must not say that it was something else.
    assert result.boundary.detail.startswith("batch 1 probably ran out of memory")


@pytest.mark.parametrize("stop", [StopReason.MAX_BATCH, StopReason.TIME])
def test_an_unproven_boundary_still_leads_to_a_recommendation(
    bench: Bench, stop: StopReason
) -> None:
    chosen = (
        settings(VARIANT, max_batch=4)
        if stop is StopReason.MAX_BATCH
        else settings(VARIANT, time_limit_seconds=3 * 4.2)
    )
    gpu = ArithmeticGpu()
    (result,) = bench.probe(gpu, chosen).results
    assert (result.boundary.stop, result.boundary.largest) == (stop, 4)
    assert result.recommendation is not None
    assert asked(gpu) == [(1, 1, ANY), (2, 1, ANY), (4, 1, ANY), (4, 3, FRESH)]


def test_the_time_limit_applies_to_each_variant(bench: Bench) -> None:
    run = bench.probe(ArithmeticGpu(), settings(VARIANT, AMP, time_limit_seconds=4.2))
    assert [result.boundary.largest for result in run.results] == [1, 1]


@pytest.mark.parametrize(
    ("needed", "batch"), [(affine_need, 10), (needing_more_to_accumulate(5 * GIB), 20)]
)
def test_a_run_resumed_after_any_trial_repeats_nothing(
    bench: Bench, needed: Callable[[TrialSpec], int], batch: int
) -> None:
    chosen = settings(VARIANT, AMP, target=Target(batch=batch))
    whole = bench.probe(ArithmeticGpu(needed), chosen)
    for done in range(len(whole.trials) + 1):
        gpu = ArithmeticGpu(needed)
        again = bench.probe(gpu, chosen, known=whole.trials[:done])
        assert [result.boundary for result in again.results] == [
            result.boundary for result in whole.results
        ]
        assert [result.recommendation for result in again.results] == [
            result.recommendation for result in whole.results
        ] or done < len(whole.trials)
        assert {spec for spec, _ in gpu.asked}.isdisjoint(
            trial.spec for trial in whole.trials[:done] if trial.fresh_process
        )
        assert len(gpu.asked) <= len(whole.trials) - done + 1
        assert bench.journalled == again.trials[done:]
        assert bench.listener.trials == list(again.trials)


def test_a_resumed_complete_run_runs_nothing_and_is_equal(bench: Bench) -> None:
    chosen = settings(VARIANT, AMP, GROUP, target=Target(batch=20))
    whole = bench.probe(ArithmeticGpu(), chosen)
    gpu = ArithmeticGpu()
    assert bench.probe(gpu, chosen, known=whole.trials) == whole
    assert gpu.asked == []
    assert bench.journalled == ()


def test_a_resumed_run_repeats_proofs_of_used_processes(bench: Bench) -> None:
    whole = bench.probe(ArithmeticGpu())
    used = [replace(trial, fresh_process=False) for trial in whole.trials]
    gpu = ArithmeticGpu()
    run = bench.probe(gpu, known=used)
    assert asked(gpu) == [(12, 1, FRESH), (13, 1, FRESH), (10, 1, FRESH)]
    assert run.results == whole.results


def test_an_exception_of_a_trial_ends_the_run_and_keeps_the_journal(bench: Bench) -> None:
    def interrupt(trial: Trial) -> Trial:
        if trial.spec.batch_size == 8:
            raise KeyboardInterrupt
        return trial

    with pytest.raises(KeyboardInterrupt):
        bench.probe(ArithmeticGpu(alter=interrupt))
    assert [trial.spec.batch_size for trial in bench.journalled] == [1, 2, 4]


@pytest.mark.parametrize(("more", "micro_batch"), [(GIB, 10), (40 * GIB, 10)])
def test_without_a_target_a_best_batch_that_needs_more_in_a_fresh_process_is_replaced(
    bench: Bench, more: int, micro_batch: int
) -> None:
    needed: list[int] = []

    def need(spec: TrialSpec) -> int:
        needed.append(spec.batch_size)
        is_again = spec.batch_size == 11 and needed.count(11) > 1
        return affine_need(spec) + (more if is_again else 0)

    def in_a_used_process(trial: Trial) -> Trial:
        return replace(trial, fresh_process=False) if trial.purpose is Purpose.SAFE else trial

    other = replace(VARIANT, model="unet.py:build")
    gpu = ArithmeticGpu(need, alter=in_a_used_process)
    item, trial = recommended(bench.probe(gpu, settings(other)))
    assert asked(gpu)[-2:] == [(11, 1, FRESH), (micro_batch, 1, FRESH)]
    assert (item.plan.micro_batch, item.plan.accumulation_steps) == (micro_batch, 1)
    assert trial.outcome is Outcome.FITS
    assert peak_of(trial) <= 0.95 * DEVICE.capacity_bytes


def test_where_memory_grows_nothing_is_recommended(bench: Bench) -> None:
    def grown(trial: Trial) -> Trial:
        if trial.measurement is None:
            return trial
        ends = tuple(GIB + trial.spec.batch_size * MIB * step for step in range(24))
        measured = replace(trial.measurement, steps=24, updates_applied=24)
        return replace(trial, measurement=replace(measured, allocated_after_steps=ends))

    run = bench.probe(ArithmeticGpu(alter=grown))
    (result,) = run.results
    assert (result.boundary.largest, result.recommendation, run.best) == (12, None, None)
    assert [(each.batch, each.bytes_per_step) for each in result.growth] == [
        (1, MIB),
        (12, 12 * MIB),
    ]
    assert {trial.purpose for trial in run.trials} == {Purpose.SEARCH, Purpose.PROOF}


def test_a_command_that_imports_another_pytorch_ends_the_run(tmp_path: Path) -> None:
    """Its earlier trials, which would be mixed with those of the other PyTorch, are kept."""
    made = Made()

    def with_torch(version: str) -> RunTrial:
        def run_trial(spec: TrialSpec, *, purpose: Purpose, **_: object) -> Trial:
            trial = made.trial(spec.batch_size, purpose)
            return replace(trial, spec=spec, script=replace(INSIDE, torch=version))

        return run_trial

    whole = probed_run(
        tmp_path / "one", made.settings, run_trial=with_torch("2.5.1"), device=made.device
    )
    with pytest.raises(FileError) as refused:
        probed_run(
            tmp_path / "two",
            made.settings,
            run_trial=with_torch("2.6.0"),
            device=made.device,
            known=whole.trials[:2],
        )
    assert "imports PyTorch 2.6.0, but imported 2.5.1" in str(refused.value)
    assert "--resume" in (refused.value.hint or "")
    assert read_journal(tmp_path / "two").trials == ()
