"""The trainings of a study, and that they are comparable."""

from dataclasses import replace

import pytest

from bsprobe.analysis.recommendation import plan
from bsprobe.study.plan import (
    final_trainings,
    largest_divisor,
    loader_settings,
    next_training,
    training_plan,
)
from bsprobe.study.records import Ending, StudySettings, Training, TrainingSpec
from tests.support.study_builders import lost, study_settings, trained


def following(settings: StudySettings, done: list[Training]) -> TrainingSpec | None:
    return next_training(settings, done, on_gpu=True, processors=8)


def all_of(settings: StudySettings, *, holds: int = 1000) -> list[Training]:
    done: list[Training] = []
    while (spec := following(settings, done)) is not None:
        done.append(trained(spec) if spec.plan.micro_batch <= holds else lost(spec))
    return done


def told(done: list[Training]) -> str:
    """Micro-batch, accumulation steps and seed of each training; "!" if out of memory."""
    return " ".join(
        f"{t.spec.plan.micro_batch}x{t.spec.plan.accumulation_steps}/{t.spec.seed}"
        + {Ending.FINISHED: "", Ending.OUT_OF_MEMORY: "!"}[t.ended]
        for t in done
    )


ASKED = study_settings(4, seeds=1, micro_batch=4)
PLANS = {
    "batches ascend and seeds within them": (study_settings(2, 8), 1000, "2x1/0 2x1/1 8x1/0 8x1/1"),
    "a micro-batch that was asked for is kept to in equal parts": (
        study_settings(2, 6, 7, seeds=1, micro_batch=4),
        1000,
        "2x1/0 3x2/0 1x7/0",
    ),
    "a batch that does not fit is accumulated from then on": (
        study_settings(2, 8, 14),
        5,
        "2x1/0 2x1/1 8x1/0! 4x2/0 4x2/1 7x2/0! 2x7/0 2x7/1",
    ),
    "where nothing fits the study ends": (study_settings(4, seeds=1), 0, "4x1/0! 2x2/0! 1x4/0!"),
    "a micro-batch that was asked for and does not fit is a result": (ASKED, 2, "4x1/0!"),
}


@pytest.mark.parametrize("case", PLANS)
def test_the_trainings_follow_the_plan(case: str) -> None:
    settings, holds, wanted = PLANS[case]

    assert told(all_of(settings, holds=holds)) == wanted


def test_the_final_trainings_are_those_whose_micro_batch_fitted() -> None:
    done = all_of(study_settings(2, 8, 12), holds=5)

    assert [t.ended for t in final_trainings(done)] == [Ending.FINISHED] * 6


def test_all_trainings_see_the_same_number_of_images() -> None:
    settings = study_settings(3, 4, 10, images=100)

    done = all_of(settings)

    assert settings.images_seen == 120
    assert {t.spec.images for t in done} == {120}
    assert [t.spec.plan.updates for t in done] == [40, 40, 30, 30, 12, 12]


def test_a_training_that_failed_is_not_repeated() -> None:
    settings = study_settings(4, seeds=1)
    first = following(settings, [])
    assert first is not None

    assert following(settings, [lost(first, Ending.FAILED)]) is None


def test_the_rate_is_the_recommendations_and_warm_up_begins_above_the_base_batch() -> None:
    settings = study_settings(2, 4, 8, images=800)

    plans = [training_plan(settings, batch, batch) for batch in settings.batches]

    assert [each.learning_rate for each in plans] == pytest.approx([0.002, 0.004, 0.008])
    assert [
        plan(settings.variant, settings.target, micro_batch=b, steps=1, groups={}).learning_rate
        for b in settings.batches
    ] == [each.learning_rate for each in plans]
    assert [(each.updates, each.warmup_updates) for each in plans] == [(400, 0), (200, 0), (100, 5)]


def test_noise_is_sampled_in_the_first_seed_alone() -> None:
    done = all_of(study_settings(2, 4))

    assert [t.spec.noise_steps for t in done] == [16, 0, 16, 0]


def test_loading_processes_are_a_gpus_by_default_and_otherwise_as_asked() -> None:
    settings = study_settings(2)
    specs = [
        next_training(settings, [], on_gpu=True, processors=8),
        next_training(settings, [], on_gpu=False, processors=8),
        next_training(replace(settings, workers=3), [], on_gpu=False, processors=8),
    ]

    assert [spec and spec.workers for spec in specs] == [4, 0, 3]


def test_the_largest_divisor_is_the_fewest_accumulation_steps() -> None:
    assert [largest_divisor(12, most) for most in (1, 5, 6, 11, 12, 99)] == [1, 4, 6, 6, 12, 12]


def test_loader_settings_cover_no_process_up_to_one_a_processor() -> None:
    swept = [
        (s.workers, s.prefetch_factor, s.pin_memory)
        for s in loader_settings(on_gpu=True, processors=6)
    ]

    assert swept == [
        (0, None, True),
        (1, 2, True),
        (2, 2, True),
        (4, 2, True),
        (4, 4, True),
        (4, 2, False),
    ]
    assert {s.pin_memory for s in loader_settings(on_gpu=False, processors=2)} == {False}
