"""Images depend on the seed only, not on the batch, the processes or interruptions."""

import gc
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, _utils

from bsprobe.records.errors import FileError
from bsprobe.records.trials import DataSource
from bsprobe.records.units import Resolution
from bsprobe.study.learning.seeded_images import (
    Order,
    SeededImages,
    mixed_seed,
    training_images,
    training_loader,
    validation_images,
    validation_loader,
)
from bsprobe.study.records import LoaderSetting, TrainingSpec
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.cityscapes.samples import Split
from tests.support.drawn import SIZE, cut_off_image, drawn
from tests.support.study_builders import first_training, study_settings

ALONE = LoaderSetting(workers=0, prefetch_factor=None, pin_memory=False)
TWO = LoaderSetting(workers=2, prefetch_factor=2, pin_memory=False)
RGB = InputNormalisation.IMAGENET_RGB


def spec_of(root: Path, micro_batch: int, seed: int = 0) -> TrainingSpec:
    size = Resolution(height=48, width=64)
    return replace(first_training(study_settings(micro_batch), data=root, size=size), seed=seed)


def shown(
    root: Path,
    count: int,
    *,
    micro_batch: int,
    setting: LoaderSetting = ALONE,
    start: int = 0,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels at some positions of a training."""
    spec = spec_of(root, micro_batch, seed)
    images = training_images(spec.data, spec.variant.size, RGB, seed=seed)
    stream = training_loader(images, spec, setting, start=start)
    taken = list(itertools.islice(stream, count // micro_batch))
    return torch.cat([b.images for b in taken]), torch.cat([b.labels for b in taken])


@pytest.mark.parametrize(
    ("micro_batch", "setting", "start"),
    [(1, ALONE, 0), (4, ALONE, 0), (3, TWO, 0), (4, ALONE, 4), (2, TWO, 6)],
)
def test_a_position_shows_the_same_image_however_it_is_reached(
    root: Path, micro_batch: int, setting: LoaderSetting, start: int
) -> None:
    images, labels = shown(root, 12, micro_batch=2)

    again = shown(root, 12 - start, micro_batch=micro_batch, setting=setting, start=start)

    assert torch.equal(again[0], images[start:])
    assert torch.equal(again[1], labels[start:])


def test_another_seed_shows_others() -> None:
    assert list(keys(seed=0)) != list(keys(seed=1))
    assert mixed_seed(0, 1, 2) != mixed_seed(0, 2, 1)


def keys(*, seed: int, start: int = 0, end: int = 21) -> list[tuple[int, int]]:
    order = Order(count=7, micro_batch=1, seed=seed, start=start, end=end)
    return [key for (key,) in order]


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    epochs = [[index for _, index in keys(seed=3)[e : e + 7]] for e in (0, 7, 14)]

    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [position for position, _ in keys(seed=3)] == list(range(21))


def test_batches_run_across_the_ends_of_epochs() -> None:
    order = Order(count=3, micro_batch=2, seed=0, end=7)

    assert [[position for position, _ in batch] for batch in order] == [[0, 1], [2, 3], [4, 5]]


def test_one_image_is_drawn_differently_at_each_position(root: Path) -> None:
    spec = spec_of(root, 1)
    images = training_images(spec.data, spec.variant.size, RGB, seed=0)

    first, second, again = (images[position, 2][0] for position in (0, 1, 0))

    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_drawing_leaves_the_trainings_random_numbers_alone(root: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    shown(root, 4, micro_batch=2)
    shown(root, 4, micro_batch=2, setting=TWO)
    found = validation_images(DataSource(root=str(root)), SIZE, RGB)
    list(validation_loader(found, workers=1))

    assert torch.equal(torch.rand(3), expected)


def test_validation_labels_are_native_and_images_at_scale_1(root: Path) -> None:
    crop = Resolution(height=32, width=32)
    found = validation_images(DataSource(root=str(root)), crop, RGB)

    (batch, *more) = list(validation_loader(found, workers=0))

    assert (batch.images.shape, batch.labels.shape) == ((1, 3, 32, 64), (1, 64, 128))
    assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    assert (len(more), found.samples[0].image_path.parent.parent.name) == (1, Split.VAL)
    assert type(batch.labels) is torch.Tensor


def test_a_subset_is_the_first_images(root: Path) -> None:
    sources = [DataSource(root=str(root), subset=subset) for subset in (2, 99)]

    assert [training_images(source, SIZE, RGB, seed=0).count for source in sources] == [2, 5]


@pytest.mark.parametrize("setting", [ALONE, TWO])
def test_a_damaged_image_is_refused_by_name_from_every_process(
    tmp_path: Path, setting: LoaderSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch waits this long for each loading process when the error is garbage-collected.
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    folder = drawn(tmp_path / "damaged", 2)
    image = cut_off_image(folder)

    with pytest.raises(FileError, match=f"^{image}: "):
        shown(folder, 2, micro_batch=1, setting=setting)
    gc.collect()


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set of random numbers."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(4) + index, torch.rand(1)


def test_neighbouring_positions_have_nothing_in_common() -> None:
    images = SeededImages(Numbers(), 1, seed=0)

    numbers = torch.stack([images[position, 0][0] for position in range(500)])

    correlation = torch.corrcoef(torch.stack([numbers[:-1, 0], numbers[1:, 0]]))[0, 1]
    assert abs(correlation) < 0.15
