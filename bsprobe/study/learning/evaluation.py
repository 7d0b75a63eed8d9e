"""What predictions are worth: one confusion matrix over all images, and what follows from it.

The definitions are those of `cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py`: a
pixel counts unless its *true* label is ignored, IoU is TP / (TP + FP + FN) over all images
together, and the mean is over the classes that occur, in the labels or in the predictions.
"""

import math
from dataclasses import dataclass

import torch

from bsprobe.training.cityscapes.labels import CLASSES, IGNORED_TRAIN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a confusion matrix says, each between 0 and 1."""

    pixel_accuracy: float
    class_iou: tuple[float | None, ...]
    """By train id; None where a class is neither in the labels nor in the predictions."""
    mean_iou: float
    """Over the classes that are not None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantPrediction:
    """What can be had without looking at the images: the least that a network must beat."""

    class_index: int
    """The class whose prediction for every pixel has the best mean IoU: the most frequent one."""
    pixel_accuracy: float
    mean_iou: float
    loss: float
    """Cross-entropy of predicting the classes' own frequencies everywhere: their entropy."""


def confusion_matrix(
    predictions: torch.Tensor, labels: torch.Tensor, *, classes: int
) -> torch.Tensor:
    """Count pixels by true class (rows) and predicted class (columns).

    Args:
        predictions: Train ids, any shape, int64, each below `classes`.
        labels: Train ids of the same shape, int64, 255 where ignored.
        classes: The number of classes.

    Returns:
        (classes, classes), int64, on the device of the labels. Matrices of several images add up.
    """
    counted = labels != IGNORED_TRAIN_ID
    pairs = labels[counted] * classes + predictions[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def scores(matrix: torch.Tensor) -> Scores:
    """Accuracy and IoU of a confusion matrix; all are 0 where no pixel was counted."""
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
    """The best that a constant can do on the labels that a confusion matrix was made of.

    A class that is predicted everywhere has its share of the pixels as IoU, every other class
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
    """The name of a train id; its number where a data set has classes of its own."""
    return CLASSES[index].name if index < len(CLASSES) else f"class {index}"
