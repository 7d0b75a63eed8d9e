"""Validation after the training steps: its search, its failures and its sentences."""

from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.analysis.search import Process
from bsprobe.records.failures import Outcome
from bsprobe.records.growth import Growth
from bsprobe.records.runs import Boundary, Run, Settings, StopReason, Target
from bsprobe.records.trials import (
    VALIDATION_PHASE,
    Peak,
    Purpose,
    Trial,
    TrialSpec,
    Validated,
    Validation,
)
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.report.run import markdown, tables, terminal
from bsprobe.storage.codec import from_json, to_json
from bsprobe.worker.endings import keeping_training
from bsprobe.worker.ranks.merge import joined_trial
from tests.support.builders import (
    AMP,
    DEVICE,
    VARIANT,
    ArithmeticGpu,
    broke,
    failure,
    probed_run,
    ran,
    settings,
)

SIZE = Resolution(height=1024, width=2048)
ONE = Validation(resolution=SIZE)
NO_ROOM = Validated(outcome=Outcome.OUT_OF_MEMORY, failure=replace(failure(), phase="validation"))


def validated(trial: Trial, *, per_image: int, room: int) -> Trial:
    """Return a trial with its validation: `per_image` bytes beside the training's peak."""
    asked, measured = trial.spec.validation, trial.measurement
    if asked is None or measured is None:
        return trial
    # The cache that the training step leaves is half of its peak.
    taken = max(measured.peak_bytes, measured.peak_bytes // 2 + asked.batch_size * per_image)
    inside = taken - measured.outside_allocator_bytes
    fits = Validated(peak=Peak(allocated_bytes=inside, reserved_bytes=inside))
    return replace(
        trial, measurement=replace(measured, validation=fits if taken <= room else NO_ROOM)
    )


def probed(
    folder: Path, asked: Settings, *, per_image: int = 2 * GIB, room: int = DEVICE.capacity_bytes
) -> tuple[Run, ArithmeticGpu]:
    gpu = ArithmeticGpu(alter=lambda trial: validated(trial, per_image=per_image, room=room))
    return probed_run(folder, asked, run_trial=gpu), gpu


def with_validation(*variants: Variant, seeks: bool = False) -> Settings:
    chosen = settings(*(variants or (VARIANT,)), target=Target(batch=4))
    return replace(chosen, validation=ONE, seeks_validation_batch=seeks)


def test_every_trial_validates_and_no_failure_of_it_moves_the_boundary(tmp_path: Path) -> None:
    plain = probed_run(tmp_path / "plain", replace(with_validation(), validation=None))
    run, gpu = probed(tmp_path / "validated", with_validation(), per_image=100 * GIB)
    assert {spec.validation for spec, _ in gpu.asked} == {ONE}
    assert run.results[0].boundary == plain.results[0].boundary
    before, after = plain.results[0].recommendation, run.results[0].recommendation
    assert before is not None
    assert after is not None
    assert (after.largest, after.safe, after.best, after.plan) == (
        before.largest, before.safe, before.best, before.plan,
    )  # fmt: skip
    assert {t.measurement.validation for t in run.trials if t.measurement} == {NO_ROOM}


def test_the_largest_validation_batch_is_proven_beside_the_recommended_step(
    tmp_path: Path,
) -> None:
    # The step of batch 4 takes 8 GiB and leaves 4: 20 GiB hold 8 images of 2 GiB beside it.
    run, gpu = probed(tmp_path, with_validation(seeks=True))
    (result,) = run.results
    assert result.validation_boundary == Boundary(
        stop=StopReason.PROVEN, largest=8, first_failure=9
    )
    asked = [
        (spec.batch_size, spec.validation.batch_size, process)
        for spec, process in gpu.asked
        if spec.validation is not None and spec.validation.batch_size > 1
    ]
    assert {batch for batch, _, _ in asked} == {4}
    proven = {(images, process) for _, images, process in asked if images > 4}
    assert proven >= {(8, Process.FRESH), (9, Process.FRESH)}
    trials = [trial for trial in run.trials if trial.purpose is Purpose.VALIDATION]
    assert len(trials) == len(asked)


def test_no_validation_batch_is_searched_unless_asked_for(tmp_path: Path) -> None:
    run, gpu = probed(tmp_path, with_validation())
    assert run.results[0].validation_boundary is None
    assert {spec.validation for spec, _ in gpu.asked} == {ONE}


def test_a_process_that_dies_in_the_validation_leaves_the_measured_steps() -> None:
    spec = replace(ran(4).spec, validation=ONE)
    died = replace(failure(), phase=VALIDATION_PHASE)
    asked: list[Validation | None] = []

    def run(given: TrialSpec) -> Trial:
        asked.append(given.validation)
        if given.validation is None:
            return ran(4, 6 * GIB)
        return replace(broke(4, why=died), spec=given)

    trial = keeping_training(run, spec)
    assert asked == [ONE, None]
    assert (trial.spec, trial.outcome) == (spec, Outcome.FITS)
    assert trial.measurement is not None
    assert trial.measurement.peak_bytes == 6 * GIB
    assert trial.measurement.validation == Validated(outcome=Outcome.OUT_OF_MEMORY, failure=died)


@pytest.mark.parametrize("phase", ["step 2", "building"])
def test_a_process_that_dies_before_the_validation_has_failed(phase: str) -> None:
    why = replace(failure(), phase=phase)
    spec = replace(ran(4).spec, validation=ONE)
    trial = keeping_training(lambda given: replace(broke(4, why=why), spec=given), spec)
    assert (trial.outcome, trial.failure) == (Outcome.OUT_OF_MEMORY, why)


def of_rank(tried: Validated, peak_bytes: int = 4 * GIB) -> Trial:
    trial = ran(8, peak_bytes)
    assert trial.measurement is not None
    return replace(trial, measurement=replace(trial.measurement, validation=tried))


def fitting(reserved: int) -> Validated:
    return Validated(peak=Peak(allocated_bytes=1, reserved_bytes=reserved))


@pytest.mark.parametrize(
    ("ranks", "weakest"),
    [
        ((fitting(3), fitting(5), fitting(4)), fitting(5)),
        ((fitting(3), NO_ROOM), NO_ROOM),
    ],
)
def test_the_weakest_validation_of_all_ranks_counts(
    ranks: tuple[Validated, ...], weakest: Validated
) -> None:
    joined = joined_trial([of_rank(each) for each in ranks])
    assert joined.measurement is not None
    assert joined.measurement.validation == weakest


def test_a_run_with_its_validations_is_stored_and_read(tmp_path: Path) -> None:
    run, _ = probed(tmp_path, with_validation(seeks=True))
    assert from_json(Run, to_json(run)) == run


def test_a_validation_that_fits_is_one_sentence_and_has_its_column(tmp_path: Path) -> None:
    run, _ = probed(tmp_path, with_validation())
    text = terminal.render(run)
    (sentence,) = [each for each in text.split("\n\n") if "Validation of 1 image" in each]
    words = " ".join(sentence.split())
    assert "1024x2048 fits beside the recommended step" in words
    assert "of 20.0 GiB it takes, with all that training keeps, 8.00 GiB (no more than" in words
    report = markdown.render(run, plots=(), snippet=None)
    header = next(line for line in report.splitlines() if "peak memory" in line)
    assert "| validation |" in header
    assert words in report.splitlines()[2]  # beside the answer
    (row,) = tables.recommendation_table(run).to_dict("records")
    assert (row["validation_outcome"], row["validation_peak_bytes"]) == ("fits", 8 * GIB)


def test_a_validation_that_does_not_fit_names_the_batch_beside_which_it_does(
    tmp_path: Path,
) -> None:
    # The steps of batches 1, 2 and 4 leave 1.75, 2.5 and 4 GiB; 15.5 GiB more are needed.
    run, _ = probed(tmp_path, with_validation(), per_image=int(17.4 * GIB))
    words = " ".join(terminal.render(run).split())
    assert "does not fit beside training with micro-batch 4; it fits beside micro-batch 2" in words
    (row,) = tables.recommendation_table(run).to_dict("records")
    assert (row["validation_outcome"], row["validation_peak_bytes"]) == ("out of memory", None)


def test_a_validation_that_takes_more_than_training_says_how_much(tmp_path: Path) -> None:
    run, _ = probed(tmp_path, with_validation(), per_image=6 * GIB)
    assert "10.0 GiB (2.00 GiB more than training)" in " ".join(terminal.render(run).split())


def test_fewer_images_are_advised_if_there_are_several(tmp_path: Path) -> None:
    asked = replace(with_validation(), validation=Validation(resolution=SIZE, batch_size=2))
    run, _ = probed(tmp_path, asked, per_image=100 * GIB)
    words = " ".join(terminal.render(run).split())
    assert "fits beside no smaller one: validate fewer images at once, or in tiles" in words


def test_where_nothing_is_recommended_no_validation_is_judged(tmp_path: Path) -> None:
    run, _ = probed(tmp_path, with_validation())
    growth = (Growth(batch=12, bytes_per_step=GIB, steps=24, full_at_step=31),)
    grown = replace(run, results=(replace(run.results[0], recommendation=None, growth=growth),))
    assert "nothing is recommended" in terminal.render(grown)
    assert "\n\n\n" not in terminal.render(grown)


def test_variants_have_a_table_of_their_validations(tmp_path: Path) -> None:
    run, _ = probed(tmp_path, with_validation(VARIANT, AMP, seeks=True))
    text = terminal.render(run)
    table = text[text.index("peak of validating 1 x 1024x2048") :].splitlines()
    assert table[0].split()[-2:] == ["largest", "batch"]
    assert [line.split()[-2:] for line in table[1:3]] == [["40%", "8"], ["25%", "8"]]
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_without_validation_has_no_word_of_it(tmp_path: Path) -> None:
    run = probed_run(tmp_path, settings(VARIANT))
    texts = (terminal.render(run), markdown.render(run, plots=(), snippet=None))
    assert not any("alidat" in text for text in texts)
