from pathlib import Path

import pytest
import torch

from bsprobe.records.errors import FileError
from bsprobe.training.cityscapes.dataset import CityscapesDataset
from bsprobe.training.cityscapes.labels import to_train_ids
from bsprobe.training.cityscapes.samples import Split, load_pair
from bsprobe.training.cityscapes.transforms import validation_transform
from tests.support.drawn import SIZE

NATIVE = validation_transform(SIZE)


def test_a_pair_is_the_image_and_the_train_ids_of_its_files(drawn_root: Path) -> None:
    dataset = CityscapesDataset(drawn_root, Split.VAL, transform=NATIVE)
    assert len(dataset) == 2
    for index, sample in enumerate(dataset.samples):
        image, train_ids = dataset[index]
        pair = load_pair(sample)
        assert isinstance(pair, tuple)
        assert torch.equal(train_ids, torch.from_numpy(to_train_ids(pair[1])).long())
        red = (torch.from_numpy(pair[0][..., 0]) / 255 - 0.485) / 0.229
        torch.testing.assert_close(image[0], red)


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        CityscapesDataset(tmp_path, Split.TRAIN, transform=NATIVE)
    assert str(caught.value).startswith(f"{tmp_path / 'leftImg8bit'}: ")
    assert f"`bsprobe data {tmp_path}`" in str(caught.value.hint)
