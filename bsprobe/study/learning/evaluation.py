"""Scores of predictions, from one confusion matrix over all images.

Source: `cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py`. A pixel counts unless its
*true* label is ignored. IoU is TP / (TP + FP + FN) over all images together. The mean is over the
classes that occur in the labels or in the predictions.
"""

import math
from dataclasses import dataclass

import torch

from bsprobe.training.cityscapes.labels import CLASSES, IGNORED_TRAIN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of a confusion matrix, each between 0 and 1."""

    pixel_accuracy: float
    class_iou: tuple[float | None, ...]
    """By train id; None for a class that is neither in the labels nor in the predictions."""
    mean_iou: float
    """The mean over the classes whose IoU is not None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantPrediction:
    """The scores of the best prediction that is the same for every pixel of every image."""

    class_index: int
    """The most frequent class, whose prediction for every pixel has the best mean IoU."""
    pixel_accuracy: float
    mean_iou: float
    loss: float
    """The cross-entropy of predicting the frequencies of the classes: their entropy."""


def confusion_matrix(
    predictions: torch.Tensor, labels: torch.Tensor, *, classes: int
) -> torch.Tensor:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        predictions: Train ids, any shape, int64, each below `classes`.
        labels: Train ids of the same shape, int64, 255 for ignored pixels.
        classes: The number of classes.

    Returns:
        (classes, classes), int64, on the device of the labels. The matrix of several images is the
        sum of theirs.
    """
    counted = labels != IGNORED_TRAIN_ID
    pairs = labels[counted] * classes + predictions[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def scores(matrix: torch.Tensor) -> Scores:
    """Compute the scores of a confusion matrix; all are 0 if no pixel was counted."""
    counts = matrix.tolist()
    size = len(counts)
    class_iou: list[float | None] = []
    for index in range(size):
        right = counts[index][index]
        missed = sum(counts[index]) - right
        wrongly = sum(counts[row][index] for row in range(size)) - right
        union = right + missed + wrongly
        class_iou.append(right / union if union else None)
    present = [iou for iou in class_iou if iou is not None]
    total = sum(map(sum, counts))
    right_in_all = sum(counts[index][index] for index in range(size))
    return Scores(
        pixel_accuracy=right_in_all / total if total else 0.0,
        class_iou=tuple(class_iou),
        mean_iou=sum(present) / len(present) if present else 0.0,
    )


def best_constant_prediction(matrix: torch.Tensor) -> ConstantPrediction:
    """Compute the best constant prediction for the labels of a confusion matrix.

    A class that is predicted everywhere has its share of the pixels as IoU; every other class
    that occurs has 0.

    Raises:
        ValueError: No pixel was counted.
    """
    frequencies = matrix.sum(dim=1).tolist()
    total = sum(frequencies)
    if not total:
        raise ValueError("no pixel was counted")
    shares = [count / total for count in frequencies]
    most = max(range(len(shares)), key=shares.__getitem__)
    present = [share for share in shares if share > 0]
    return ConstantPrediction(
        class_index=most,
        pixel_accuracy=shares[most],
        mean_iou=shares[most] / len(present),
        loss=-sum(share * math.log(share) for share in present),
    )


def class_name(index: int) -> str:
    """The name of a train id; `class N` for ids that are not Cityscapes'."""
    return CLASSES[index].name if index < len(CLASSES) else f"class {index}"
