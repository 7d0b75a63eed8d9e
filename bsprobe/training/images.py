"""An endless stream of batches of real images.

It imports torchvision, which takes seconds: only trials on real images import this module.
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
"""Images in the stream: more than any trial uses, so that no batch is a smaller last one."""

Images = Dataset[tuple[torch.Tensor, torch.Tensor]]


def check_images(source: DataSource) -> None:
    """List a folder and read one image, which also imports the modules that reading needs.

    Raises:
        FileError: The folder has not the layout of Cityscapes, or its first image is damaged.
    """
    _images(source, Resolution(height=64, width=64))[0]


def image_batches(spec: TrialSpec, source: DataSource, *, pin_memory: bool) -> Iterator[Batch]:
    """Return an endless stream of batches of random training crops, on the host.

    Images are drawn with replacement, so that a small data set can fill any batch.

    Args:
        spec: Gives resolution, batch size and seed.
        source: The data set.
        pin_memory: Load in several processes into pinned memory, for a GPU.

    Raises:
        FileError: The folder has not the layout of Cityscapes, or a file in it is damaged.
    """
    images = _images(source, spec.variant.size)
    generator = torch.Generator().manual_seed(spec.seed)
    loader = DataLoader(
        images,
        batch_size=spec.batch_size,
        sampler=RandomSampler(images, replacement=True, num_samples=_DRAWN, generator=generator),  # type: ignore[arg-type] # Dataset has no __len__, this one has
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
    """The number of loading processes; 0 on the CPU, whose memory limit is of one process."""
    return min(_MOST_WORKERS, os.cpu_count() or 1) if on_gpu else 0
