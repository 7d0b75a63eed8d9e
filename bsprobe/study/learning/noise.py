"""Gradients of small batches and of the big one that they make, for the gradient noise scale.

As in an accumulated update the micro-batches are small samples and their sum is the big one. The
images must not influence each other, or a small batch would be another loss than its share of the
big one: norms that use statistics of the batch use their running ones here, and the loss has a
constant normaliser, the pixels of an image, whether they are valid or not.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from bsprobe.study.records import NoiseSample
from bsprobe.training.losses import segmentation_loss
from bsprobe.training.step import Batch, Task

BIG_BATCH = 8
"""Images in a big sample; the small ones are single images."""


def noise_sample(task: Task, images: Iterable[Batch], *, updates: int) -> NoiseSample:
    """Squared gradient norms at the task's present weights, which stay as they are.

    Computed in fp32 whatever the task's precision: there is no update to rescale for.

    Args:
        task: Its model is used in evaluation mode, left in training mode, without gradients.
        images: `BIG_BATCH` batches of one image, on any device.
        updates: How many the weights have seen; for the record.
    """

    def loss(waiting: Batch) -> torch.Tensor:
        batch = waiting.to(task.device, task.layout)
        pixels = torch.tensor(batch.labels.numel(), device=task.device)
        return segmentation_loss(task.model(batch.images), batch.labels, pixels)

    task.model.eval()
    losses = (partial(loss, batch) for batch in images)
    small, big, count = square_norms(task.model, losses)
    task.model.train()
    return NoiseSample(
        updates=updates,
        small_batch=1,
        big_batch=count,
        small_square_norm=small,
        big_square_norm=big,
    )


def square_norms(
    model: nn.Module, losses: Iterable[Callable[[], torch.Tensor]]
) -> tuple[float, float, int]:
    """|G|^2 of each loss, their mean; of the mean of all gradients; and the number of losses.

    Args:
        model: Whose parameters the gradients are of; they are left without gradients.
        losses: Mean losses of batches of equal size, computed when they are called.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    small, count = 0.0, 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
        small += _square(gradients)
        torch._foreach_add_(total, gradients)
        count += 1
    return small / count, _square(total) / count**2, count


def _square(tensors: Iterable[torch.Tensor]) -> float:
    """The squared norm of several tensors together."""
    squares = [tensor.double().square().sum() for tensor in tensors]
    return float(torch.stack(squares).sum())
