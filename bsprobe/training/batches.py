"""The batches of trials: synthetic, user-supplied, or read from a data set."""

import itertools
import time
from collections.abc import Iterator, Sequence

import torch

from bsprobe.records.trials import TrialSpec, Validation
from bsprobe.records.variants import MemoryFormat, Variant
from bsprobe.records.workload import Problem
from bsprobe.training.drawn_batches import drawn_batch
from bsprobe.training.losses import IGNORE
from bsprobe.training.own_batches import OwnBatch, layout_for
from bsprobe.training.step import Batch, layout_of

_TIMED_SECONDS = 2.0
"""Seconds for which the loader alone is timed; at least one batch."""
_BLOCK = 16
"""Side in pixels of the blocks over which synthetic labels are constant."""


def synthetic_batch(variant: Variant, size: int, *, device: torch.device, seed: int) -> Batch:
    """Make a batch of normally distributed images and random labels over all classes.

    Labels of pixels are constant over blocks. About one block in `classes + 1` has the ignored
    label 255, unless the loss is user-supplied: it may not know an ignored label.

    Args:
        variant: Gives resolution, channels, classes and memory format.
        size: Images in the batch.
        device: The device of the batch.
        seed: Equal seeds give equal batches on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(image_shape(variant, size), generator=generator)
    shape = label_shape(variant, size)
    if len(shape) == 1:
        labels = torch.randint(0, variant.label_classes, shape, generator=generator)
    else:
        labels = _blocky(shape, variant.label_classes, generator)
        if variant.own.own_loss is not None:
            labels[labels == IGNORE] = 0
    images, labels = images.to(device), labels.to(device)
    return Batch(images=laid_out(images, variant.memory_format), labels=labels)


def image_shape(variant: Variant, size: int) -> tuple[int, ...]:
    """The shape of a batch's images (N, C, H, W) or volumes (N, C, D, H, W)."""
    return (size, variant.channels, *variant.size.sides)


def label_shape(variant: Variant, size: int) -> tuple[int, ...]:
    """The shape of a batch's labels: (N, H, W) or (N, D, H, W) for pixels, (N,) for images."""
    if variant.problem is Problem.CLASSIFICATION:
        return (size,)
    return (size, *variant.size.sides)


def validation_images(variant: Variant, asked: Validation, device: torch.device) -> torch.Tensor:
    """Make images for a validation in the memory format of the variant.

    Args:
        variant: Gives the channels and the memory format.
        asked: Gives the size and the number of the images.
        device: The device of the images.
    """
    shape = (asked.batch_size, variant.channels, *asked.resolution.sides)
    return torch.empty(shape, device=device, memory_format=layout_of(variant)).zero_()


def _blocky(shape: Sequence[int], classes: int, generator: torch.Generator) -> torch.Tensor:
    size, *sides = shape
    few = (size, *(-(-side // _BLOCK) for side in sides))
    labels = torch.randint(0, classes + 1, few, generator=generator)
    labels[labels == classes] = IGNORE
    for dimension, side in enumerate(sides, start=1):
        labels = labels.repeat_interleave(_BLOCK, dim=dimension).narrow(dimension, 0, side)
    return labels.contiguous()


def laid_out(images: torch.Tensor, memory_format: MemoryFormat) -> torch.Tensor:
    """Return images or volumes in a memory format; the same tensor if it already has it."""
    if memory_format is MemoryFormat.NHWC:
        return images.contiguous(memory_format=layout_for(images, torch.channels_last))
    return images


def batches(spec: TrialSpec, device: torch.device) -> Iterator[Batch | OwnBatch]:
    """Return an endless stream of micro-batches for a trial.

    A synthetic or user-supplied batch is repeated and is on the device. Real images come from a
    data loader and are on the host.

    Raises:
        FileError: The folder has not the layout of Cityscapes, or a file in it is damaged.
        UsageError: The user's callable made no batch.
    """
    variant = spec.variant
    if variant.own.batches is not None:
        own = drawn_batch(variant.own, spec.batch_size, seed=spec.seed)
        return itertools.repeat(placed(own, variant, device))
    if spec.data is None:
        return itertools.repeat(
            synthetic_batch(variant, spec.batch_size, device=device, seed=spec.seed)
        )
    from bsprobe.training.images import image_batches  # noqa: PLC0415 - imports torchvision

    return image_batches(spec, spec.data, pin_memory=device.type == "cuda")


def placed(batch: OwnBatch, variant: Variant, device: torch.device) -> OwnBatch:
    """Move a user-supplied batch to the device, then bring it into the variant's memory layout.

    Args:
        batch: The batch, on any device.
        variant: Gives the memory layout.
        device: The device to move it to.
    """
    there = batch.to(device, torch.contiguous_format)
    return there.to(device, layout_of(variant))


def images_per_second(stream: Iterator[Batch | OwnBatch]) -> float:
    """Images per second that a stream delivers while no training step runs."""
    next(stream)  # it may be prefetched already
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < _TIMED_SECONDS:
        count += len(next(stream).targets)
    return count / (time.perf_counter() - start)
