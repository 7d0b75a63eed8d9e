"""Drawn sample data with the folders, file names and label ids of Cityscapes.

A small network learns the scenes within minutes. An accuracy on them says nothing about
Cityscapes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.units import Resolution
from bsprobe.storage.files import written_whole
from bsprobe.training.cityscapes.samples import Sample, Split, image_path, label_path
from bsprobe.training.cityscapes.scene import draw_street

_CITIES = {
    Split.TRAIN: ("ahornstadt", "buchental", "eichhafen"),
    Split.VAL: ("lindenfurt", "ulmenbach"),
}
"""Invented names, so that no file looks like an official one."""
_VAL_EVERY = 5
_VAL_AT = 1
"""The second of every five scenes is for validation, so that two scenes give one of each split."""
_FRAME = 19
"""The official labels are of the 20th frame of each sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedScene:
    """The split and file names of one scene. They depend only on its index."""

    index: int
    split: Split
    stem: str


def plan_scenes(count: int) -> tuple[PlannedScene, ...]:
    """Distribute scenes over the splits, four to one, and over the cities.

    Raises:
        UsageError: The count is out of range.
    """
    if count not in ASKED["sample_images"]:
        raise UsageError(
            f"{count} images cannot be drawn",
            hint=f"give {ASKED['sample_images']}, for example 40",
        )
    return tuple(_plan(index) for index in range(count))


def _plan(index: int) -> PlannedScene:
    split = Split.VAL if index % _VAL_EVERY == _VAL_AT else Split.TRAIN
    cities = _CITIES[split]
    city = cities[index // _VAL_EVERY % len(cities)]
    return PlannedScene(index=index, split=split, stem=f"{city}_{index:06}_{_FRAME:06}")


def draw_scene(
    index: int, *, size: Resolution, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the scene of an index.

    Args:
        index: The index of the scene, from 0.
        size: Height and width of the image.
        seed: Equal seeds give equal scenes.

    Returns:
        The image, HxWx3, and its label ids, HxW, both uint8.
    """
    rng = np.random.default_rng([seed, index])
    return draw_street(index, size, rng)


def write_sample_data(
    root: Path,
    *,
    count: int,
    size: Resolution,
    seed: int,
    on_written: Callable[[PlannedScene], None],
) -> tuple[Sample, ...]:
    """Draw scenes into a new or empty folder, in the official layout.

    With the same versions of numpy and Pillow the same seed gives the same bytes, and a larger
    set begins with the images of a smaller one.

    Args:
        root: The folder; it is created if it does not exist.
        count: Number of images, train and val together.
        size: Height and width of each image.
        seed: 0 or more.
        on_written: Called after each scene.

    Raises:
        UsageError: The count or the seed is out of range.
        FileError: The folder is not empty, or cannot be written.
    """
    scenes = plan_scenes(count)
    if seed not in ASKED["seed"]:
        raise UsageError(f"the seed {seed} is out of range", hint=f"give {ASKED['seed']}")
    _refuse_used(root)
    samples = []
    for scene in scenes:
        samples.append(_write_scene(root, scene, size=size, seed=seed))
        on_written(scene)
    return tuple(samples)


def _write_scene(root: Path, scene: PlannedScene, *, size: Resolution, seed: int) -> Sample:
    image, label = draw_scene(scene.index, size=size, seed=seed)
    image_place = image_path(root, scene.split, scene.stem)
    label_place = label_path(root, scene.split, scene.stem)
    about = PngInfo()
    about.add_text("Software", "bsprobe sample-data (drawn, not photographed)")
    about.add_text("Source", f"seed {seed}, scene {scene.index}, {size}")
    _write_png(image_place, image, about)
    _write_png(label_place, label, about)
    return Sample(
        city=scene.stem.partition("_")[0],
        stem=scene.stem,
        image_path=image_place,
        label_path=label_place,
    )


def _refuse_used(root: Path) -> None:
    try:
        is_used = root.exists() and any(root.iterdir())
    except NotADirectoryError as error:
        raise FileError(f"{root} is a file", hint="give the name of a new folder") from error
    except OSError as error:
        raise _unwritable(root, error) from error
    if is_used:
        raise FileError(
            f"{root} is not empty",
            hint="give the name of a new folder, or delete this one",
        )


def _write_png(path: Path, pixels: NDArray[np.uint8], about: PngInfo) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            Image.fromarray(pixels).save(file, format="PNG", pnginfo=about)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> FileError:
    reason = error.strerror or type(error).__name__
    return FileError(
        f"{path} cannot be written: {reason}", hint="check the free space and the permissions"
    )
