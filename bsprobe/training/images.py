"""Real images as an endless stream of batches, and how fast they come.

Importing this imports torchvision, which takes seconds: only trials on real images do.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset

from bsprobe.records.trials import DataSource, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.dataset import CityscapesDataset
from bsprobe.training.cityscapes.samples import Split
from bsprobe.training.cityscapes.transforms import training_transform
from bsprobe.training.step import Batch

_MOST_WORKERS = 4
_DRAWN = 2**40
"""More images than any trial uses: the stream has no end and no last, smaller batch."""

Images = Dataset[tuple[torch.Tensor, torch.Tensor]]


def check_images(source: DataSource) -> None:
    """Look at a folder and read one image, which also loads all that reading takes.

    Raises:
        FileError: It is no folder in Cityscapes' layout, or its first image is damaged.
    """
    _images(source, Resolution(height=64, width=64))[0]


def image_batches(spec: TrialSpec, source: DataSource, *, pin_memory: bool) -> Iterator[Batch]:
    """Batches of random training crops, on the host.

    Images are drawn with replacement, so that a small data set serves any batch size.

    Raises:
        FileError: The folder is not what it should be, or a file in it is damaged.
    """
    images = _images(source, spec.variant.size)
    generator = torch.Generator().manual_seed(spec.seed)
    loader = DataLoader(
        images,
        batch_size=spec.batch_size,
        sampler=RandomSampler(images, replacement=True, num_samples=_DRAWN, generator=generator),  # type: ignore[arg-type] # Dataset does not promise the length that ours has
        drop_last=True,
        num_workers=_workers(on_gpu=pin_memory),
        pin_memory=pin_memory,
    )
    return (Batch(images=images, labels=labels) for images, labels in loader)


def _images(source: DataSource, crop: Resolution) -> Images:
    whole = CityscapesDataset(Path(source.root), Split.TRAIN, transform=training_transform(crop))
    if source.subset is None:
        return whole
    return Subset(whole, range(min(source.subset, len(whole))))


def _workers(*, on_gpu: bool) -> int:
    """Processes that load; none for the CPU device, whose memory limit is one process's."""
    return min(_MOST_WORKERS, os.cpu_count() or 1) if on_gpu else 0
