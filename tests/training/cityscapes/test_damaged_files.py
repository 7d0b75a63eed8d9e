"""Two hundred damaged pairs: each gives one error of one line that names the file."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsprobe.records.errors import FileError
from bsprobe.training.cityscapes.dataset import CityscapesDataset
from bsprobe.training.cityscapes.inspection import inspect_folder
from bsprobe.training.cityscapes.samples import Split, image_path, label_path, list_split
from bsprobe.training.cityscapes.transforms import validation_transform
from tests.support.drawn import SIZE

DAMAGES_OF_EACH_KIND = 50

Damage = Callable[[random.Random, Path], None]
"""A function that damages the file at the path."""


def truncate(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def change_mode(rng: random.Random, path: Path) -> None:
    is_label = "gtFine" in path.name
    modes = ("RGB", "RGBA", "P", "LA", "1", "I;16") if is_label else ("L", "RGBA", "P", "LA", "1")
    mode = rng.choice(modes)
    with Image.open(path) as picture:
        picture.load()
    if mode == "I;16":
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 1000).save(path)
    else:
        picture.convert(mode).save(path)


def change_size(rng: random.Random, path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()
    width, height = rng.choice([(64, 32), (128, 63), (127, 64), (256, 128), (64, 128), (1, 1)])
    picture.resize((width, height), Image.Resampling.NEAREST).save(path)


def remove(_: random.Random, path: Path) -> None:
    path.unlink()


def damaged_root(drawn_root: Path, root: Path, rng: random.Random, damage: Damage) -> Path:
    """Make a pair with one damaged file, and return the file that the error must name."""
    sample = rng.choice(list_split(drawn_root, Split.TRAIN).samples)
    image = image_path(root, Split.TRAIN, sample.stem)
    label = label_path(root, Split.TRAIN, sample.stem)
    assert sample.label_path is not None
    for source, target in ((sample.image_path, image), (sample.label_path, label)):
        target.parent.mkdir(parents=True)
        target.write_bytes(source.read_bytes())
    victim, partner = rng.sample([image, label], 2)
    damage(rng, victim)
    if damage is change_size:
        return label  # a wrong size is reported for the label
    return partner if damage is remove else victim


@pytest.mark.parametrize("damage", [truncate, change_mode, change_size, remove])
def test_each_damaged_pair_is_one_error_and_one_problem_that_name_the_file(
    drawn_root: Path, tmp_path: Path, damage: Damage
) -> None:
    rng = random.Random(damage.__name__)
    transform = validation_transform(SIZE)
    for number in range(DAMAGES_OF_EACH_KIND):
        root = tmp_path / str(number)
        named = damaged_root(drawn_root, root, rng, damage)
        report = inspect_folder(root, on_looked_at=lambda *_: None)
        assert [problem.path for problem in report.problems] == [named]
        assert report.image_count == 0
        with pytest.raises(FileError) as caught:
            CityscapesDataset(root, Split.TRAIN, transform=transform)[0]
        assert str(caught.value) == f"{named}: {report.problems[0].what}"
        assert (caught.value.hint or "").startswith(report.problems[0].hint)
        assert "\n" not in str(caught.value)
