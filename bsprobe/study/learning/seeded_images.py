"""Training images in an order that depends only on the seed, and validation images.

The image at a position of the training, and its scale, crop and flip, depend only on the seed and
the position: not on the batch, the number of loading processes or interruptions. So trainings with
different batches see the same images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from bsprobe.records.errors import BsprobeError, FileError
from bsprobe.records.trials import DataSource
from bsprobe.records.units import Resolution
from bsprobe.study.records import LoaderSetting, TrainingSpec
from bsprobe.training.cityscapes.dataset import CityscapesDataset
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.cityscapes.samples import Split
from bsprobe.training.cityscapes.transforms import training_transform, validation_transform
from bsprobe.training.step import Batch

Pair = tuple[torch.Tensor, torch.Tensor]
Key = tuple[int, int]
"""A position in the training, and the index of its image."""

_ORDER, _DRAWING = 0, 1
"""Uses of a seed; different uses must not draw the same numbers."""


def mixed_seed(*parts: int) -> int:
    """Combine several numbers into one seed; neighbouring numbers give independent seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class SeededImages(Dataset[Pair]):
    """Training images whose random transform is seeded by their position."""

    def __init__(self, images: Dataset[Pair], count: int, *, seed: int) -> None:
        """Take the images of a data set.

        Args:
            images: The data set; its transform draws from torch's default generator.
            count: Number of images in the data set.
            seed: The seed of the training.
        """
        self._images = images
        self._seed = seed
        self.count = count

    def __getitem__(self, key: Key) -> Pair:
        """Return the image of an index, transformed with the random numbers of its position.

        Raises:
            FileError: A file is damaged.
        """
        position, index = key
        generator = torch.default_generator
        before = generator.get_state()
        # Not `torch.manual_seed`, which also seeds the GPU's generator, used by dropout.
        generator.manual_seed(mixed_seed(self._seed, _DRAWING, position))
        try:
            return self._images[index]
        finally:
            generator.set_state(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Sampler[list[Key]]):
    """Micro-batches of keys. Each epoch is another permutation; a batch can span two epochs."""

    count: int
    """Number of images in the data set."""
    micro_batch: int
    seed: int
    start: int = 0
    """The first position: the number of images seen before."""
    end: int | None = None
    """The position after the last; None for an endless order."""

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield lists of `micro_batch` keys."""
        keys: list[Key] = []
        for key in self._keys():
            keys.append(key)
            if len(keys) == self.micro_batch:
                yield keys
                keys = []

    def _keys(self) -> Iterator[Key]:
        end = math.inf if self.end is None else self.end
        position, epoch = self.start, -1
        order: list[int] = []
        while position < end:
            if position // self.count != epoch:
                epoch = position // self.count
                generator = torch.Generator().manual_seed(mixed_seed(self.seed, _ORDER, epoch))
                order = torch.randperm(self.count, generator=generator).tolist()
            yield position, order[position % self.count]
            position += 1


def training_images(
    source: DataSource, crop: Resolution, normalisation: InputNormalisation, *, seed: int
) -> SeededImages:
    """Open the training images of a data set.

    Args:
        source: The folder, and the number of its images to use.
        crop: Height and width of the crops.
        normalisation: The normalisation of the images.
        seed: The seed of the training.

    Raises:
        FileError: The folder has not the layout of Cityscapes.
    """
    transform = training_transform(crop, normalisation=normalisation)
    whole = CityscapesDataset(Path(source.root), Split.TRAIN, transform=transform)
    count = len(whole) if source.subset is None else min(source.subset, len(whole))
    return SeededImages(Subset(whole, range(count)), count, seed=seed)


def validation_images(
    source: DataSource, crop: Resolution, normalisation: InputNormalisation
) -> CityscapesDataset:
    """Open all validation images, with labels at their native size.

    Args:
        source: The folder.
        crop: Height and width of the training's crops, which set the scale of the images.
        normalisation: The normalisation of the images.

    Raises:
        FileError: The folder has not the layout of Cityscapes.
    """
    transform = validation_transform(crop, normalisation=normalisation)
    return CityscapesDataset(Path(source.root), Split.VAL, transform=transform)


def training_loader(
    images: SeededImages, spec: TrainingSpec, setting: LoaderSetting, *, start: int
) -> Iterator[Batch]:
    """Return an endless stream of micro-batches on the host.

    Args:
        images: The training images.
        spec: Gives micro-batch and seed.
        setting: The setting of the data loader.
        start: The position of the first image.

    Raises:
        FileError: An image is damaged.
    """
    order = Order(
        count=images.count,
        micro_batch=spec.plan.micro_batch,
        seed=spec.seed,
        start=start,
    )
    return _batches(
        DataLoader(
            images,
            batch_sampler=order,
            num_workers=setting.workers,
            prefetch_factor=setting.prefetch_factor,
            pin_memory=setting.pin_memory,
            generator=torch.Generator(),  # otherwise it draws from the training's generator
        )
    )


def validation_loader(images: CityscapesDataset, *, workers: int) -> Iterator[Batch]:
    """Return the validation images one by one, because they can differ in size.

    Raises:
        FileError: An image is damaged.
    """
    return _batches(
        DataLoader(images, batch_size=1, num_workers=workers, generator=torch.Generator())
    )


def _batches(loader: DataLoader[Pair]) -> Iterator[Batch]:
    try:
        for images, labels in loader:
            yield Batch(images=images, labels=labels)
    except BsprobeError as error:
        # The text of an error from a loading process is its traceback.
        last = str(error).strip().splitlines()[-1]
        name = f"{type(error).__module__}.{type(error).__name__}: "
        raise FileError(last.removeprefix(name), hint=error.hint) from None
