"""Training and validation images in an order that nothing but the seed decides.

The image at a position of the training, and how it is scaled, cropped and flipped, follow from
the seed and the position alone: not from the batch, not from the number of loading processes,
not from where a training was interrupted. So trainings with different batches see the same images.
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
"""A position in the training and the index of the image that stands there."""

_ORDER, _DRAWING = 0, 1
"""What a seed is used for; different uses must not draw the same numbers."""


def mixed_seed(*parts: int) -> int:
    """One seed of several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class SeededImages(Dataset[Pair]):
    """Training images whose random transform is seeded by their position."""

    def __init__(self, images: Dataset[Pair], count: int, *, seed: int) -> None:
        """Take the images of a data set of known length; the seed is the training's."""
        self._images = images
        self._seed = seed
        self.count = count

    def __getitem__(self, key: Key) -> Pair:
        """The image of an index, scaled, cropped and flipped as its position has it.

        Raises:
            FileError: A file is damaged.
        """
        position, index = key
        generator = torch.default_generator
        before = generator.get_state()
        # Only this generator: seeding all would reseed the GPU's, which dropout draws from.
        generator.manual_seed(mixed_seed(self._seed, _DRAWING, position))
        try:
            return self._images[index]
        finally:
            generator.set_state(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Sampler[list[Key]]):
    """Micro-batches of keys: each epoch is a permutation of its own; batches run across epochs."""

    count: int
    """Images in the data set."""
    micro_batch: int
    seed: int
    start: int = 0
    """The first position: how many images were seen before."""
    end: int | None = None
    """Positions from here on are left out; None: there is no end."""

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
    """The training images of a data set.

    Raises:
        FileError: The folder is not what it should be.
    """
    transform = training_transform(crop, normalisation=normalisation)
    whole = CityscapesDataset(Path(source.root), Split.TRAIN, transform=transform)
    count = len(whole) if source.subset is None else min(source.subset, len(whole))
    return SeededImages(Subset(whole, range(count)), count, seed=seed)


def validation_images(
    source: DataSource, crop: Resolution, normalisation: InputNormalisation
) -> CityscapesDataset:
    """All validation images, with labels at their native size.

    Raises:
        FileError: The folder is not what it should be.
    """
    transform = validation_transform(crop, normalisation=normalisation)
    return CityscapesDataset(Path(source.root), Split.VAL, transform=transform)


def training_loader(
    images: SeededImages, spec: TrainingSpec, setting: LoaderSetting, *, start: int
) -> Iterator[Batch]:
    """Micro-batches from a position on, on the host, without end.

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
            generator=torch.Generator(),  # else starting it draws from the training's generator
        )
    )


def validation_loader(images: CityscapesDataset, *, workers: int) -> Iterator[Batch]:
    """The validation images one by one, for they may differ in size.

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
        # From a loading process it comes with that process's traceback as its text.
        last = str(error).strip().splitlines()[-1]
        name = f"{type(error).__module__}.{type(error).__name__}: "
        raise FileError(last.removeprefix(name), hint=error.hint) from None
