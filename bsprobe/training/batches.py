"""The batches of trials: synthetic ones, or real images through the real transforms."""

import itertools
import time
from collections.abc import Iterator, Sequence

import torch

from bsprobe.records.trials import TrialSpec
from bsprobe.records.variants import MemoryFormat, Variant
from bsprobe.records.workload import Problem
from bsprobe.training.losses import IGNORE
from bsprobe.training.own_batches import OwnBatch, layout_for, own_batch
from bsprobe.training.step import Batch, layout_of

_TIMED_SECONDS = 2.0
"""Time for which the loader is timed by itself; at least one batch."""
_BLOCK = 16
"""Labels are constant over blocks of this many pixels, as regions are, not noise."""


def synthetic_batch(variant: Variant, size: int, *, device: torch.device, seed: int) -> Batch:
    """Normally distributed images, and labels over all classes: of pixels or of images.

    Those of pixels are blocky and have 255 among them, but for a loss of the user's own, which may
    know no label that is ignored.

    Args:
        variant: Gives resolution, channels, classes and memory format.
        size: Images in the batch.
        device: Where the batch is to live.
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


def _blocky(shape: Sequence[int], classes: int, generator: torch.Generator) -> torch.Tensor:
    size, *sides = shape
    few = (size, *(-(-side // _BLOCK) for side in sides))
    labels = torch.randint(0, classes + 1, few, generator=generator)
    labels[labels == classes] = IGNORE
    for dimension, side in enumerate(sides, start=1):
        labels = labels.repeat_interleave(_BLOCK, dim=dimension).narrow(dimension, 0, side)
    return labels.contiguous()


def laid_out(images: torch.Tensor, memory_format: MemoryFormat) -> torch.Tensor:
    """Images or volumes in the memory layout of a variant; themselves where they are so."""
    if memory_format is MemoryFormat.NHWC:
        return images.contiguous(memory_format=layout_for(images, torch.channels_last))
    return images


def batches(spec: TrialSpec, device: torch.device) -> Iterator[Batch | OwnBatch]:
    """An endless stream of micro-batches for a trial.

    Synthetic ones and your own are one batch, over and over, on the device; real images come from
    a data loader and are on the host.

    Raises:
        FileError: The folder is not what it should be, or a file in it is damaged.
        UsageError: Your callable made no batch.
    """
    variant = spec.variant
    if variant.own.batches is not None:
        own = own_batch(variant.own.batches, spec.batch_size, seed=spec.seed)
        return itertools.repeat(placed(own, variant, device))
    if spec.data is None:
        return itertools.repeat(
            synthetic_batch(variant, spec.batch_size, device=device, seed=spec.seed)
        )
    from bsprobe.training.images import image_batches  # noqa: PLC0415 - imports torchvision

    return image_batches(spec, spec.data, pin_memory=device.type == "cuda")


def placed(batch: OwnBatch, variant: Variant, device: torch.device) -> OwnBatch:
    """A batch of your own on the device, then in the memory layout of the variant."""
    there = batch.to(device, torch.contiguous_format)
    return there.to(device, layout_of(variant))


def images_per_second(stream: Iterator[Batch | OwnBatch]) -> float:
    """The rate at which a stream delivers images when nothing else is done."""
    next(stream)  # what was prefetched while the last step ran costs nothing now
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < _TIMED_SECONDS:
        count += len(next(stream).targets)
    return count / (time.perf_counter() - start)
