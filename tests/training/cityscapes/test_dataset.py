import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from bsprobe.records.errors import FileError
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.dataset import CityscapesDataset
from bsprobe.training.cityscapes.labels import to_train_ids
from bsprobe.training.cityscapes.samples import Split, load_pair
from bsprobe.training.cityscapes.transforms import evaluation_transform, training_transform

NATIVE = Resolution(height=64, width=128)


def test_a_pair_is_the_image_and_the_train_ids_of_its_files(drawn_root: Path) -> None:
    dataset = CityscapesDataset(drawn_root, Split.VAL, transform=evaluation_transform(NATIVE))
    assert len(dataset) == 2
    for index, sample in enumerate(dataset.samples):
        image, train_ids = dataset[index]
        pair = load_pair(sample)
        assert isinstance(pair, tuple)
        assert torch.equal(train_ids, torch.from_numpy(to_train_ids(pair[1])).long())
        red = (torch.from_numpy(pair[0][..., 0]) / 255 - 0.485) / 0.229
        torch.testing.assert_close(image[0], red)


def test_a_loader_gives_float_images_and_int64_labels(drawn_root: Path) -> None:
    crop = Resolution(height=32, width=64)
    dataset = CityscapesDataset(drawn_root, Split.TRAIN, transform=training_transform(crop))
    loader = DataLoader(dataset, batch_size=3, shuffle=True, drop_last=True)
    shapes = [(images.shape, labels.shape) for images, labels in loader]
    assert shapes == [((3, 3, 32, 64), (3, 32, 64))] * 2
    images, labels = next(iter(loader))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert set(labels.unique().tolist()) <= {*range(19), 255}


def test_the_test_split_is_ignored_everywhere(drawn_root: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn_root / "leftImg8bit/val", tmp_path / "leftImg8bit/test")
    dataset = CityscapesDataset(tmp_path, Split.TEST, transform=evaluation_transform(NATIVE))
    assert [dataset[index][1].unique().tolist() for index in range(len(dataset))] == [[255]] * 2


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        CityscapesDataset(tmp_path, Split.TRAIN, transform=evaluation_transform(NATIVE))
    assert str(caught.value) == f"{tmp_path / 'leftImg8bit'}: there is no such folder"
    assert caught.value.hint == (
        "point at the folder that holds leftImg8bit/ and gtFine/, or draw a stand-in with "
        f"`bsprobe sample-data DIR`; `bsprobe data {tmp_path}` lists all that is wrong"
    )


def test_a_damaged_file_is_named_even_from_a_worker_process(
    drawn_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(drawn_root, root)
    transform = evaluation_transform(NATIVE)
    dataset = CityscapesDataset(root, Split.VAL, transform=transform)
    damaged = dataset.samples[0].image_path
    damaged.write_bytes(damaged.read_bytes()[:500])
    expected = f"{damaged}: is cut off, or no PNG image"
    with pytest.raises(FileError) as caught:
        dataset[0]
    assert str(caught.value) == expected
    with pytest.raises(FileError) as caught:
        next(iter(DataLoader(dataset, batch_size=1, num_workers=1)))
    assert expected in str(caught.value)
