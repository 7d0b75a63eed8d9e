from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsprobe.training.cityscapes.samples import (
    Listing,
    Problem,
    Sample,
    Split,
    image_path,
    label_path,
    list_split,
    load_image,
    load_label,
    load_pair,
)

STEM = "ulm_000003_000019"


def require_problem(listing: Listing, path: Path, what: str, hint: str) -> None:
    """Require one problem and no samples; `what` and `hint` are parts of its texts."""
    (problem,) = listing.problems
    assert (problem.path, listing.samples) == (path, ())
    assert what in problem.what
    assert hint in problem.hint


def save(path: Path, mode: str, size: tuple[int, int] = (16, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, format="PNG")
    return path


def test_files_are_found_where_cityscapes_puts_them(tmp_path: Path) -> None:
    image = save(tmp_path / "leftImg8bit/train/ulm/ulm_000003_000019_leftImg8bit.png", "RGB")
    label = save(tmp_path / "gtFine/train/ulm/ulm_000003_000019_gtFine_labelIds.png", "L")
    save(tmp_path / "gtFine/train/ulm/ulm_000003_000019_gtFine_color.png", "RGB")
    (tmp_path / "leftImg8bit/train/.DS_Store").touch()
    sample = Sample(city="ulm", stem=STEM, image_path=image, label_path=label)
    assert list_split(tmp_path, Split.TRAIN) == Listing(samples=(sample,), problems=())
    assert image_path(tmp_path, Split.TRAIN, STEM) == image
    assert label_path(tmp_path, Split.TRAIN, STEM) == label


def test_test_images_need_no_labels_and_get_an_ignored_one(tmp_path: Path) -> None:
    image = save(image_path(tmp_path, Split.TEST, STEM), "RGB")
    sample = Sample(city="ulm", stem=STEM, image_path=image, label_path=None)
    assert list_split(tmp_path, Split.TEST) == Listing(samples=(sample,), problems=())
    pair = load_pair(sample)
    assert isinstance(pair, tuple)
    np.testing.assert_array_equal(pair[1], np.zeros((8, 16), dtype=np.uint8))


@pytest.mark.parametrize(
    ("present", "named", "what"),
    [
        ([], "", "no such folder"),
        ([""], "leftImg8bit", "no such folder"),
        (["leftImg8bit"], "leftImg8bit/val", "no such folder"),
        (["leftImg8bit/val"], "gtFine", "no such folder"),
        (["leftImg8bit/val", "gtFine/train"], "gtFine/val", "no such folder"),
        (
            ["leftImg8bit/val", "gtFine/val"],
            "leftImg8bit/val",
            "CITY/CITY_000000_000019_leftImg8bit.png",
        ),
    ],
)
def test_the_first_folder_that_is_missing_or_empty_is_named(
    tmp_path: Path, present: list[str], named: str, what: str
) -> None:
    root = tmp_path / "cityscapes"
    for folder in present:
        (root / folder).mkdir(parents=True)
    require_problem(list_split(root, Split.VAL), root / named, what, "bsprobe sample-data")


def test_a_file_in_the_place_of_the_root_is_named(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes.zip"
    root.touch()
    require_problem(list_split(root, Split.VAL), root, "is a file", "bsprobe sample-data")


def test_each_file_without_its_partner_is_named(tmp_path: Path) -> None:
    image = save(image_path(tmp_path, Split.VAL, "ulm_000001_000019"), "RGB")
    label = save(label_path(tmp_path, Split.VAL, "bonn_000002_000019"), "L")
    first, second = list_split(tmp_path, Split.VAL).problems
    assert (first.path, second.path) == (label, image)
    assert "(leftImg8bit/val/bonn/bonn_000002_000019_leftImg8bit.png)" in first.what
    assert "(gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png)" in second.what


@pytest.mark.parametrize(
    "place",
    [
        "ulm_000001_000019_leftImg8bit.png",  # not in the folder of its city
        "bonn/ulm_000001_000019_leftImg8bit.png",
        "ulm/ulm_1_19_leftImg8bit.png",
    ],
)
def test_a_misplaced_image_is_named(tmp_path: Path, place: str) -> None:
    save(label_path(tmp_path, Split.VAL, STEM), "L")
    save(image_path(tmp_path, Split.VAL, STEM), "RGB")
    path = save(tmp_path / "leftImg8bit/val" / place, "RGB")
    listing = list_split(tmp_path, Split.VAL)
    (problem,) = listing.problems
    assert problem.path == path
    assert "CITY/CITY_000000_000019_leftImg8bit.png" in problem.hint
    assert [sample.stem for sample in listing.samples] == [STEM]


def test_an_unreadable_png_says_why(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", "RGB")

    def reason() -> str:
        problem = load_image(path)
        assert isinstance(problem, Problem)
        assert problem.path == path
        assert "again" in problem.hint
        return problem.what

    content = bytearray(path.read_bytes())
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert "cut off" in reason()
    start = content.index(b"IDAT") + 6  # behind the header of the compressed pixels
    content[start : start + 6] = b"\xff" * 6
    path.write_bytes(content)
    assert reason().endswith(": broken data stream when reading image file")
    path.write_bytes(b"<html>404</html>" + content[-12:])
    assert "damaged" in reason()
    path.unlink()
    assert reason().endswith(": No such file or directory")


@pytest.mark.parametrize(
    ("mode", "hint"),
    [
        ("RGB", "*_color.png"),
        ("RGBA", "RGB; "),
        ("P", "palette"),
        ("I;16", "*_instanceIds.png"),
        ("1", "again"),
    ],
)
def test_a_label_of_another_mode_says_which_file_is_meant(
    tmp_path: Path, mode: str, hint: str
) -> None:
    path = save(tmp_path / "a.png", mode)
    problem = load_label(path)
    assert isinstance(problem, Problem)
    assert problem.path == path
    assert f"8-bit image with one channel (Pillow calls its mode {mode})" in problem.what
    assert hint in problem.hint


def test_a_grey_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", "L")
    problem = load_image(path)
    assert isinstance(problem, Problem)
    assert problem.path == path
    assert "8-bit RGB image (Pillow calls its mode L)" in problem.what
    assert "leftImg8bit" in problem.hint


def test_a_label_of_another_size_than_its_image_is_named_with_both_sizes(tmp_path: Path) -> None:
    image = save(image_path(tmp_path, Split.VAL, STEM), "RGB", (16, 8))
    label = save(label_path(tmp_path, Split.VAL, STEM), "L", (8, 16))
    sample = Sample(city="ulm", stem=STEM, image_path=image, label_path=label)
    problem = load_pair(sample)
    assert isinstance(problem, Problem)
    assert problem.path == label
    assert problem.what == "is 16 high x 8 wide, but its image is 8 high x 16 wide"
