"""The official folder layout: listing its files and reading them.

    {root}/leftImg8bit/{split}/{city}/{city}_{seq:06}_{frame:06}_leftImg8bit.png
    {root}/gtFine/{split}/{city}/{city}_{seq:06}_{frame:06}_gtFine_labelIds.png

A damaged file or folder is returned as a `Problem`, not raised: the dataset raises the first one
(`Problem.as_error`), the inspection lists all of them.
"""

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bsprobe.records.errors import FileError

IMAGE_FOLDER = "leftImg8bit"
LABEL_FOLDER = "gtFine"
IMAGE_ENDING = "_leftImg8bit.png"
LABEL_ENDING = "_gtFine_labelIds.png"

_STEM = re.compile(r"(?P<city>[^_]+)_\d{6}_\d{6}")
_END_MARK = b"IEND\xaeB`\x82"  # the name of the last chunk and its checksum
_END_MARK_WITHIN = 1024
"""The end mark is searched for in this many last bytes: a few bytes after it are harmless."""
_REPLACE_HINT = "copy or download this file again"
_LAYOUT_HINT = (
    f"give the folder that holds {IMAGE_FOLDER}/ and {LABEL_FOLDER}/, or draw sample data "
    "with `bsprobe sample-data DIR`"
)
# Thousands of damaged files raised OSError, SyntaxError and ValueError; Pillow's PNG reader and
# zlib can raise the others.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class Split(StrEnum):
    """The official splits of the data set; test has no labels."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem with one file or folder."""

    path: Path
    what: str
    """The problem, in words that follow the path."""
    hint: str
    """The next step for the user."""

    def as_error(self) -> FileError:
        """Return the problem as an exception."""
        return FileError(f"{self.path}: {self.what}", hint=self.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The files of one scene."""

    city: str
    stem: str
    """The beginning of the names of its files: `{city}_{seq:06}_{frame:06}`."""
    image_path: Path
    label_path: Path | None
    """None in the test split: its published label files hold no labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The samples of one split, sorted by name, and the problems of its other files."""

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]


def image_path(root: Path, split: Split, stem: str) -> Path:
    """The path of the image of a scene.

    Args:
        root: The folder that holds `leftImg8bit/` and `gtFine/`.
        split: The split of the scene.
        stem: The beginning of its file names, see `Sample.stem`.
    """
    return root / IMAGE_FOLDER / split / stem.partition("_")[0] / f"{stem}{IMAGE_ENDING}"


def label_path(root: Path, split: Split, stem: str) -> Path:
    """The path of the label ids of a scene.

    Args:
        root: The folder that holds `leftImg8bit/` and `gtFine/`.
        split: The split of the scene.
        stem: The beginning of its file names, see `Sample.stem`.
    """
    return root / LABEL_FOLDER / split / stem.partition("_")[0] / f"{stem}{LABEL_ENDING}"


def list_split(root: Path, split: Split) -> Listing:
    """List the samples of a split by file names, opening no file."""
    missing = _missing_folder(root, split)
    if missing is not None:
        return Listing(samples=(), problems=(missing,))
    problems: list[Problem] = []
    stems = _stems(root / IMAGE_FOLDER / split, IMAGE_ENDING, problems)
    if split is Split.TEST:
        labelled = stems
    else:
        labelled = _stems(root / LABEL_FOLDER / split, LABEL_ENDING, problems)
        problems += _unpaired(root, split, stems, labelled)
    samples = tuple(
        Sample(
            city=stem.partition("_")[0],
            stem=stem,
            image_path=image_path(root, split, stem),
            label_path=None if split is Split.TEST else label_path(root, split, stem),
        )
        for stem in sorted(stems & labelled)
    )
    if not samples and not problems:
        problems.append(
            Problem(
                path=root / IMAGE_FOLDER / split,
                what=f"holds no file named CITY/CITY_000000_000019{IMAGE_ENDING}",
                hint=_LAYOUT_HINT,
            )
        )
    return Listing(samples=samples, problems=tuple(sorted(problems, key=lambda one: one.path)))


def load_pair(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | Problem:
    """Read an image (HxWx3) and its label ids (HxW), which are 0 for images of the test split."""
    image = load_image(sample.image_path)
    if isinstance(image, Problem):
        return image
    if sample.label_path is None:
        return image, np.zeros(image.shape[:2], dtype=np.uint8)
    label = load_label(sample.label_path)
    if isinstance(label, Problem):
        return label
    mismatch = size_mismatch(sample.label_path, image, label)
    return (image, label) if mismatch is None else mismatch


def size_mismatch(
    label_path: Path, image: NDArray[np.uint8], label: NDArray[np.uint8]
) -> Problem | None:
    """A problem if a label and its image differ in size, else None.

    Args:
        label_path: The file that the problem names.
        image: HxWx3.
        label: HxW.
    """
    height, width = image.shape[:2]
    if label.shape == (height, width):
        return None
    return Problem(
        path=label_path,
        what=f"is {label.shape[0]} high x {label.shape[1]} wide, "
        f"but its image is {height} high x {width} wide",
        hint="use the image and the label of one release, and resize neither",
    )


def load_image(path: Path) -> NDArray[np.uint8] | Problem:
    """Read a colour image: uint8, HxWx3, red, green, blue."""
    return _load(path, mode="RGB", wanted="an 8-bit RGB image")


def load_label(path: Path) -> NDArray[np.uint8] | Problem:
    """Read a label image: uint8 label ids, HxW."""
    return _load(path, mode="L", wanted="an 8-bit image with one channel")


def _load(path: Path, *, mode: str, wanted: str) -> NDArray[np.uint8] | Problem:
    try:
        if path.exists() and not path.is_file():  # reading a pipe may block forever
            return Problem(path=path, what="is not a regular file", hint=_REPLACE_HINT)
        if not _has_end_mark(path):
            return Problem(path=path, what="is cut off, or no PNG image", hint=_REPLACE_HINT)
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode != mode:
                return _wrong_mode(path, picture.mode, wanted)
            return np.array(picture, dtype=np.uint8)
    except UnidentifiedImageError:
        return Problem(path=path, what="is damaged, or no PNG image", hint=_REPLACE_HINT)
    except _PILLOW_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Problem(path=path, what=f"cannot be read: {reason}", hint=_REPLACE_HINT)


def _has_end_mark(path: Path) -> bool:
    """Return whether the file has the end mark, which Pillow does not require."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_MARK_WITHIN))
        return _END_MARK in file.read()


def _wrong_mode(path: Path, mode: str, wanted: str) -> Problem:
    hints = {
        "P": "use the *_labelIds.png files; a palette image is a visualisation",
        "RGB": "use the *_labelIds.png files, not *_color.png",
        "RGBA": "convert the image to RGB; if it is a label, use *_labelIds.png, not *_color.png",
        "I;16": "use the *_labelIds.png files, not *_instanceIds.png",
        "L": "use the colour images of leftImg8bit",
    }
    return Problem(
        path=path,
        what=f"is not {wanted} (Pillow calls its mode {mode})",
        hint=hints.get(mode, _REPLACE_HINT),
    )


def _missing_folder(root: Path, split: Split) -> Problem | None:
    """A problem with the first folder that is missing on the path to the split."""
    needed = [root, root / IMAGE_FOLDER, root / IMAGE_FOLDER / split]
    if split is not Split.TEST:
        needed += [root / LABEL_FOLDER, root / LABEL_FOLDER / split]
    for folder in needed:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            return Problem(path=folder, what="there is no such folder", hint=_LAYOUT_HINT)
        except OSError as error:
            return _unlistable(folder, error)
        if not stat.S_ISDIR(mode):
            return Problem(path=folder, what="is a file, not a folder", hint=_LAYOUT_HINT)
    return None


def _stems(folder: Path, ending: str, problems: list[Problem]) -> set[str]:
    """The stems of all files with this ending; misnamed and misplaced files become problems."""
    found: set[str] = set()
    for path in _files(folder, problems):
        if not path.name.endswith(ending):
            continue
        stem = path.name.removesuffix(ending)
        match = _STEM.fullmatch(stem)
        if match and path.parent == folder / match["city"]:
            found.add(stem)
        else:
            problems.append(
                Problem(
                    path=path,
                    what="has the wrong name or is in the wrong folder",
                    hint=f"the layout is CITY/CITY_000000_000019{ending}",
                )
            )
    return found


def _files(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    """The files in a folder and in its direct subfolders."""
    for entry, is_folder in _entries(folder, problems):
        if not is_folder:
            yield entry
            continue
        for inner, is_inner_folder in _entries(entry, problems):
            if not is_inner_folder:
                yield inner


def _entries(folder: Path, problems: list[Problem]) -> list[tuple[Path, bool]]:
    """The entries of a folder without hidden ones, each with True if it is a folder."""
    try:
        return [
            (entry, entry.is_dir())
            for entry in sorted(folder.iterdir())
            if not entry.name.startswith(".")
        ]
    except OSError as error:
        problems.append(_unlistable(folder, error))
        return []


def _unlistable(folder: Path, error: OSError) -> Problem:
    reason = error.strerror or type(error).__name__
    return Problem(path=folder, what=f"cannot be opened: {reason}", hint="check its permissions")


def _unpaired(root: Path, split: Split, images: set[str], labels: set[str]) -> list[Problem]:
    hint = "copy the missing file, or delete this one"
    without_label = [
        Problem(
            path=image_path(root, split, stem),
            what=f"has no label ({label_path(root, split, stem).relative_to(root)})",
            hint=hint,
        )
        for stem in images - labels
    ]
    without_image = [
        Problem(
            path=label_path(root, split, stem),
            what=f"has no image ({image_path(root, split, stem).relative_to(root)})",
            hint=hint,
        )
        for stem in labels - images
    ]
    return without_label + without_image
