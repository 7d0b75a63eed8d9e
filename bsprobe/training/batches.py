"""Synthetic batches: the shape, dtype and label range of real ones, and no data set needed."""

import torch

from bsprobe.training.losses import IGNORE
from bsprobe.training.step import Batch
from bsprobe.variants import MemoryFormat, Variant

_BLOCK = 16
"""Labels are constant over blocks of this many pixels, as regions are, not noise."""


def synthetic_batch(variant: Variant, size: int, *, device: torch.device, seed: int) -> Batch:
    """Normally distributed images and blocky labels over all classes, 255 among them.

    Args:
        variant: Gives resolution, classes and memory format.
        size: Images in the batch.
        device: Where the batch is to live.
        seed: Equal seeds give equal batches on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = variant.resolution.height, variant.resolution.width
    images = torch.randn((size, 3, height, width), generator=generator)
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    blocks = torch.randint(0, variant.classes + 1, (size, rows, columns), generator=generator)
    blocks[blocks == variant.classes] = IGNORE
    labels = blocks.repeat_interleave(_BLOCK, dim=1).repeat_interleave(_BLOCK, dim=2)
    labels = labels[:, :height, :width].contiguous()
    images, labels = images.to(device), labels.to(device)
    if variant.memory_format is MemoryFormat.NHWC:
        images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images=images, labels=labels)
