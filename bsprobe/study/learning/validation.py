"""The validation of a network: its loss and confusion matrix on the validation images."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.study.learning.evaluation import confusion_matrix
from bsprobe.training.losses import IGNORE
from bsprobe.training.step import Batch, Task, evaluation_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The result of one pass over the validation images."""

    confusion: torch.Tensor
    """(classes, classes), int64, on the CPU; rows are true classes."""
    loss: float | None
    """Mean cross-entropy over all valid pixels; None if it is not finite."""
    images: int


def validate(task: Task, batches: Iterable[Batch], *, classes: int) -> Validation:
    """Predict every image at the size of its label and compare the two.

    Args:
        task: Its model is used in evaluation mode and left in training mode.
        batches: Images at the size for the network, labels at their native size.
        classes: Number of classes of the network.
    """
    confusion = torch.zeros((classes, classes), dtype=torch.int64, device=task.device)
    total = torch.zeros((), dtype=torch.float64, device=task.device)
    images = 0
    for waiting in batches:
        batch = waiting.to(task.device, task.layout)
        height, width = batch.labels.shape[-2:]
        logits = evaluation_logits(task, batch.images, (height, width)).float()
        total += F.cross_entropy(logits, batch.labels, ignore_index=IGNORE, reduction="sum")
        confusion += confusion_matrix(logits.argmax(dim=1), batch.labels, classes=classes)
        images += len(batch.images)
    counted = int(confusion.sum())
    loss = total.item() / max(1, counted)
    return Validation(
        confusion=confusion.cpu(), loss=loss if math.isfinite(loss) else None, images=images
    )
