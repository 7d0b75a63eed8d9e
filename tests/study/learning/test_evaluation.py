"""Scores of predictions, compared with the official evaluation of the same files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813 - a module
from PIL import Image

from bsprobe.records.units import Resolution
from bsprobe.study.learning.evaluation import (
    Scores,
    best_constant_prediction,
    class_name,
    confusion_matrix,
    scores,
)
from bsprobe.training.cityscapes.labels import CLASSES, to_train_ids
from bsprobe.training.cityscapes.synthetic import draw_scene

SIZE = Resolution(height=48, width=96)
LABEL_IDS = np.array([label.label_id for label in CLASSES], dtype=np.uint8)


def noisy(train_ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Predictions that are right for most pixels and never 255."""
    guesses = rng.integers(0, 16, train_ids.shape)  # train and two more are never predicted
    is_guess = (rng.random(train_ids.shape) < 0.3) | (train_ids == 255)
    return np.where(is_guess, guesses, train_ids).astype(np.uint8)


def official_scores(
    folder: Path, label_ids: list[np.ndarray], predicted: list[np.ndarray]
) -> dict[str, Any]:
    """The scores that `cityscapesscripts` gives for predictions (train ids), written to files."""
    truth = [str(folder / f"{number}_gt.png") for number in range(len(label_ids))]
    guess = [str(folder / f"{number}_pred.png") for number in range(len(predicted))]
    images = (*label_ids, *(LABEL_IDS[one] for one in predicted))
    for path, image in zip((*truth, *guess), images, strict=True):
        Image.fromarray(image).save(path)
    args = official.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    result: dict[str, Any] = official.evaluateImgLists(guess, truth, args)
    return result


def matrix_of(label_ids: list[np.ndarray], predicted: list[np.ndarray]) -> torch.Tensor:
    total = torch.zeros((19, 19), dtype=torch.int64)
    for truth, guess in zip(label_ids, predicted, strict=True):
        labels = torch.from_numpy(to_train_ids(truth)).long()
        total += confusion_matrix(torch.from_numpy(guess).long(), labels, classes=19)
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scores_equal_the_official_ones_to_the_digit(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_ids = [draw_scene(index, size=SIZE, seed=seed)[1] for index in range(6)]
    predicted = [noisy(to_train_ids(one), rng) for one in label_ids]

    theirs = official_scores(tmp_path, label_ids, predicted)
    ours = scores(matrix_of(label_ids, predicted))

    iou = [theirs["classScores"][label.name] for label in CLASSES]
    assert ours.class_iou == tuple(None if math.isnan(one) else one for one in iou)
    assert ours.mean_iou == theirs["averageScoreClasses"]
    assert 0.1 < ours.mean_iou < 0.9
    truth = to_train_ids(np.stack(label_ids))
    assert ours.pixel_accuracy == (truth == np.stack(predicted)).sum() / (truth != 255).sum()


def test_a_class_that_is_only_predicted_counts_and_one_in_neither_does_not() -> None:
    labels = torch.tensor([0, 0, 0, 1, 255])
    predictions = torch.tensor([0, 0, 2, 1, 3])

    ours = scores(confusion_matrix(predictions, labels, classes=4))

    assert ours.pixel_accuracy == 3 / 4
    assert ours.class_iou == (2 / 3, 1.0, 0.0, None)
    assert ours.mean_iou == pytest.approx(5 / 9)


def test_rows_are_true_classes_and_columns_predicted_ones() -> None:
    labels = torch.tensor([[0, 1], [1, 255]])
    predictions = torch.tensor([[1, 1], [0, 0]])

    matrix = confusion_matrix(predictions, labels, classes=2)

    assert (matrix.tolist(), matrix.dtype) == ([[0, 1], [1, 1]], torch.int64)


def test_one_matrix_over_all_images_is_not_the_mean_over_images() -> None:
    pairs = [
        (torch.zeros(90, dtype=torch.int64), torch.zeros(90, dtype=torch.int64)),
        (torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.int64)),
    ]
    matrices = [confusion_matrix(guess, truth, classes=2) for truth, guess in pairs]

    assert scores(matrices[0] + matrices[1]).mean_iou == 0.45
    assert [scores(one).mean_iou for one in matrices] == [1.0, 0.0]


def test_nothing_counted_scores_nothing() -> None:
    nothing = torch.zeros((2, 2), dtype=torch.int64)

    assert scores(nothing) == Scores(pixel_accuracy=0.0, class_iou=(None, None), mean_iou=0.0)
    with pytest.raises(ValueError, match="no pixel was counted"):
        best_constant_prediction(nothing)


def test_no_constant_scores_better_than_the_best_one() -> None:
    rng = np.random.default_rng(3)
    label_ids = [draw_scene(index, size=SIZE, seed=3)[1] for index in range(3)]
    noise = [noisy(to_train_ids(one), rng) for one in label_ids]

    best = best_constant_prediction(matrix_of(label_ids, noise))

    by_hand = [
        scores(matrix_of(label_ids, [np.full_like(one, index) for one in label_ids]))
        for index in range(19)
    ]
    most = max(by_hand, key=lambda each: each.mean_iou)
    assert best.class_index == by_hand.index(most)
    assert best.mean_iou == pytest.approx(most.mean_iou, rel=1e-12)
    assert best.pixel_accuracy == most.pixel_accuracy


def test_the_loss_of_the_best_constant_is_the_entropy_of_the_labels() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    matrix = confusion_matrix(torch.zeros_like(labels), labels, classes=4)
    shares = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    logits = shares.log().expand(10, 3)

    best = best_constant_prediction(matrix)

    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert (best.class_index, best.pixel_accuracy) == (0, 0.6)
    assert (best.mean_iou, best.loss) == pytest.approx((0.6 / 3, loss))


def test_classes_have_their_names() -> None:
    assert [class_name(index) for index in (0, 18, 19)] == ["road", "bicycle", "class 19"]
