"""The inspection of a whole folder: its contents, and every file or folder with a problem."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import (
    IGNORED_TRAIN_ID,
    LABELS,
    LARGEST_LABEL_ID,
    to_train_ids,
)
from bsprobe.training.cityscapes.samples import (
    IMAGE_FOLDER,
    LABEL_FOLDER,
    Problem,
    Sample,
    Split,
    list_split,
    load_image,
    load_label,
    size_mismatch,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CityCount:
    """The number of usable images of a city in a split."""

    split: Split
    city: str
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeCount:
    """The number of usable images of a size."""

    size: Resolution
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelShare:
    """The frequency of a label in the usable labelled images."""

    label_id: int
    name: str
    train_id: int
    pixel_share: float
    """Share of all labelled pixels, ignored ones included; 0 to 1."""
    images: int
    """Number of images with this label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """The contents of a folder. A file with a problem counts in `problems` only."""

    root: Path
    cities: tuple[CityCount, ...]
    sizes: tuple[SizeCount, ...]
    labels: tuple[LabelShare, ...]
    """The labels that occur, by id."""
    ignored_share: float
    """Share of the labelled pixels whose train id is 255; 0 if no pixel is labelled."""
    first_sample: Sample | None
    """The first usable labelled sample, for the picture."""
    problems: tuple[Problem, ...]

    @property
    def image_count(self) -> int:
        """The number of usable images in all splits."""
        return sum(city.images for city in self.cities)


@dataclass(slots=True)
class _Tally:
    """The counts of the files inspected so far."""

    cities: Counter[tuple[Split, str]] = field(default_factory=Counter)
    sizes: Counter[Resolution] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    first_sample: Sample | None = None
    problems: list[Problem] = field(default_factory=list)


def inspect_folder(root: Path, *, on_looked_at: Callable[[int, int], None]) -> FolderReport:
    """Open every image of a folder in the official layout.

    It does not raise: errors, also of the folder itself, become problems of the report.

    Args:
        root: The folder that holds `leftImg8bit/` and `gtFine/`.
        on_looked_at: Called after each scene with the number done and the number in all.
    """
    tally = _Tally()
    found: list[tuple[Split, Sample]] = []
    for split in _splits_to_inspect(root):
        listing = list_split(root, split)
        found += [(split, sample) for sample in listing.samples]
        tally.problems += listing.problems
    for done, (split, sample) in enumerate(found, start=1):
        _look_at(split, sample, tally)
        on_looked_at(done, len(found))
    return _reported(root, tally)


def _splits_to_inspect(root: Path) -> tuple[Split, ...]:
    """The splits in the folder; train if there is none, so that its absence becomes a problem."""
    there = [split for split in (Split.TRAIN, Split.VAL) if _has(root, LABEL_FOLDER, split)]
    there += [split for split in Split if _has(root, IMAGE_FOLDER, split)]
    return tuple(split for split in Split if split in there) or (Split.TRAIN,)


def _has(root: Path, folder: str, split: Split) -> bool:
    try:
        return (root / folder / split).exists()
    except OSError:  # no permission: `list_split` reports it
        return False


def _look_at(split: Split, sample: Sample, tally: _Tally) -> None:
    """Read both files of a scene; each damaged file is a problem."""
    image = load_image(sample.image_path)
    label = None if sample.label_path is None else load_label(sample.label_path)
    problems = [one for one in (image, label) if isinstance(one, Problem)]
    if isinstance(image, np.ndarray) and isinstance(label, np.ndarray) and sample.label_path:
        checks = (
            size_mismatch(sample.label_path, image, label),
            _unknown_ids(sample.label_path, label),
        )
        problems += [problem for problem in checks if problem is not None]
    if problems or isinstance(image, Problem):
        tally.problems += problems
        return
    tally.cities[split, sample.city] += 1
    tally.sizes[Resolution(height=image.shape[0], width=image.shape[1])] += 1
    if isinstance(label, np.ndarray):
        pixels = np.bincount(label.ravel(), minlength=256)
        tally.pixels += pixels
        tally.images += pixels > 0
        tally.first_sample = tally.first_sample or sample


def _unknown_ids(label_path: Path, label: NDArray[np.uint8]) -> Problem | None:
    """A problem if there are values that are no label ids.

    Training maps them to 255, which would hide a wrong file.
    """
    values = np.unique(label)
    unknown = values[values > LARGEST_LABEL_ID].tolist()
    if not unknown:
        return None
    shown = ", ".join(str(value) for value in unknown[:5]) + (", ..." if unknown[5:] else "")
    return Problem(
        path=label_path,
        what=f"holds values that are no label ids (0 to {LARGEST_LABEL_ID}): {shown}",
        hint="use the *_labelIds.png files; 255 occurs in files of train ids",
    )


def _reported(root: Path, tally: _Tally) -> FolderReport:
    total = int(tally.pixels.sum())
    is_ignored = to_train_ids(np.arange(256)) == IGNORED_TRAIN_ID
    order = list(Split)
    return FolderReport(
        root=root,
        cities=tuple(
            CityCount(split=split, city=city, images=images)
            for (split, city), images in sorted(
                tally.cities.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
        ),
        sizes=tuple(
            SizeCount(size=size, images=images) for size, images in sorted(tally.sizes.items())
        ),
        labels=tuple(
            LabelShare(
                label_id=label.label_id,
                name=label.name,
                train_id=label.train_id,
                pixel_share=int(tally.pixels[label.label_id]) / total,
                images=int(tally.images[label.label_id]),
            )
            for label in LABELS
            if tally.pixels[label.label_id]
        ),
        ignored_share=int(tally.pixels[is_ignored].sum()) / total if total else 0.0,
        first_sample=tally.first_sample,
        problems=tuple(tally.problems),
    )
