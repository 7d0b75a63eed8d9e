"""The recommended batch of a study, and its comparison with the others."""

import math
from pathlib import Path

import pytest

from bsprobe.study.records import LoaderRate, LoaderSetting, Loading, Study
from bsprobe.study.verdict import (
    BatchSummary,
    Feeding,
    Spread,
    Verdict,
    feeding,
    recommended_loading,
    summaries,
    verdict,
)
from tests.support.study_builders import FormulaTrainer, made_study, mean_iou, study_settings


def judged(study: Study) -> tuple[tuple[BatchSummary, ...], Verdict]:
    found = summaries(study.trainings)
    chosen = verdict(found)
    assert chosen is not None
    return found, chosen


def test_the_batch_with_the_highest_mean_over_its_seeds_is_recommended(tmp_path: Path) -> None:
    found, chosen = judged(made_study(tmp_path))

    assert (chosen.best.batch, [each.batch for each in found]) == (4, [2, 4, 8])
    assert chosen.best.mean_iou is not None
    iou = [mean_iou(4, seed, 1.0) for seed in (0, 1)]
    assert chosen.best.mean_iou.mean == pytest.approx(sum(iou) / 2)
    assert chosen.best.mean_iou.deviation == pytest.approx((iou[1] - iou[0]) / math.sqrt(2))
    assert chosen.best.images_per_second == pytest.approx(24.0)


def test_batches_are_compared_seed_by_seed(tmp_path: Path) -> None:
    _, chosen = judged(made_study(tmp_path))

    # Every seed changes all batches equally, so the differences have no spread.
    assert [(r.batch, round(r.behind, 6)) for r in chosen.rivals] == [(2, 0.06), (8, 0.12)]
    assert [r.uncertainty for r in chosen.rivals] == pytest.approx([0.0, 0.0], abs=1e-9)
    assert [r.is_told_apart for r in chosen.rivals] == [True, True]


def test_the_interval_is_students(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = {(4, 0): 0.5, (4, 1): 0.6, (4, 2): 0.7, (8, 0): 0.4, (8, 1): 0.58, (8, 2): 0.49}
    monkeypatch.setattr(
        "tests.support.study_builders.mean_iou", lambda batch, seed, _: scores[batch, seed]
    )
    _, chosen = judged(made_study(tmp_path, study_settings(4, 8, seeds=3)))

    (rival,) = chosen.rivals
    # Differences 0.10, 0.02, 0.21: mean 0.11, standard error 0.0551, t(2) = 4.303.
    assert rival.behind == pytest.approx(0.11)
    assert rival.uncertainty == pytest.approx(4.303 * 0.055076, rel=1e-4)
    assert not rival.is_told_apart


def test_one_seed_has_no_spread_and_tells_nothing_apart(tmp_path: Path) -> None:
    _, chosen = judged(made_study(tmp_path, study_settings(seeds=1)))

    assert chosen.best.mean_iou == Spread(mean=mean_iou(4, 0, 1.0), deviation=None)
    assert [(r.uncertainty, r.is_told_apart) for r in chosen.rivals] == [(None, False)] * 2


def test_a_batch_that_lost_a_seed_does_not_win(tmp_path: Path) -> None:
    trainer = FormulaTrainer(
        diverges=lambda spec: spec.plan.effective_batch == 4 and spec.seed == 0
    )
    found, chosen = judged(made_study(tmp_path, trainer=trainer))

    assert (chosen.best.batch, [each.finished for each in found]) == (2, [2, 1, 2])


def test_where_nothing_finished_nothing_is_recommended(tmp_path: Path) -> None:
    study = made_study(tmp_path, trainer=FormulaTrainer(holds=0))

    assert verdict(summaries(study.trainings)) is None
    assert study.loading is None


@pytest.mark.parametrize(
    ("fed", "workers", "effect"),
    [
        ({0: 50.0, 1: 80.0, 2: 97.0, 4: 99.0, 8: 98.0}, 2, Feeding.FULL),
        ({0: 20.0, 4: 90.0}, 4, Feeding.SLOWED),  # the loader alone gives twice as much
        ({0: 20.0, 4: 45.0}, 4, Feeding.STARVED),
    ],
    ids=["fast enough", "fast enough alone", "too slow"],
)
def test_the_fewest_workers_that_are_as_fast_as_the_fastest_are_recommended_even_if_the_step_waits(
    fed: dict[int, float], workers: int, effect: Feeding
) -> None:
    rates = [
        LoaderRate(
            setting=LoaderSetting(workers=count, prefetch_factor=2, pin_memory=True),
            alone_images_per_second=2 * rate,
            fed_images_per_second=rate,
        )
        for count, rate in fed.items()
    ]
    swept = Loading(
        effective_batch=8, micro_batch=8, step_images_per_second=100.0, rates=tuple(rates)
    )

    best = recommended_loading(swept)

    assert (best.setting.workers, feeding(swept, best)) == (workers, effect)
