"""Gradients of single images and of a big batch of them, for the gradient noise scale.

The loss of an image must not depend on the other images of its batch. So norms use their running
statistics instead of the batch's, and the loss is divided by all pixels of an image, whether they
are valid or not.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from bsprobe.study.records import NoiseSample
from bsprobe.training.losses import segmentation_loss
from bsprobe.training.step import Batch, Task

BIG_BATCH = 8
"""Number of images in the big batch; the small batches are single images."""


def noise_sample(task: Task, images: Iterable[Batch], *, updates: int) -> NoiseSample:
    """Compute squared gradient norms at the present weights, in fp32 for any precision.

    Args:
        task: Its model is used in evaluation mode and left in training mode, without gradients.
        images: `BIG_BATCH` batches of one image, on any device.
        updates: The number of updates so far, for the record.
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
    """Compute squared norms of gradients over several losses.

    Args:
        model: The network; its parameters are left without gradients.
        losses: Functions that compute the mean losses of batches of equal size.

    Returns:
        The mean of the losses' squared norms, the squared norm of the mean gradient, and the number
        of losses.
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
