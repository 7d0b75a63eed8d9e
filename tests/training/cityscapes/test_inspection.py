from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsprobe.records.errors import FileError
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.inspection import (
    CityCount,
    FolderReport,
    LabelShare,
    SizeCount,
    inspect_folder,
)
from bsprobe.training.cityscapes.picture import write_picture
from bsprobe.training.cityscapes.samples import Sample, Split, image_path, label_path

STEM = "ulm_000000_000019"


def save_pair(root: Path, split: Split, stem: str, rows: list[list[int]]) -> Sample:
    label = np.array(rows, dtype=np.uint8)
    image, place = image_path(root, split, stem), label_path(root, split, stem)
    for path, pixels in ((image, np.zeros((*label.shape, 3), dtype=np.uint8)), (place, label)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return Sample(city=stem.partition("_")[0], stem=stem, image_path=image, label_path=place)


def inspected(root: Path) -> FolderReport:
    return inspect_folder(root, on_looked_at=lambda *_: None)


def test_the_report_counts_images_sizes_and_labels(tmp_path: Path) -> None:
    save_pair(tmp_path, Split.VAL, "bonn_000000_000019", [[7, 7], [0, 33]])
    first = save_pair(tmp_path, Split.TRAIN, STEM, [[7, 7, 7, 1]])
    save_pair(tmp_path, Split.TRAIN, "ulm_000001_000019", [[33, 33], [7, 0]])
    assert inspected(tmp_path) == FolderReport(
        root=tmp_path,
        cities=(
            CityCount(split=Split.TRAIN, city="ulm", images=2),
            CityCount(split=Split.VAL, city="bonn", images=1),
        ),
        sizes=(
            SizeCount(size=Resolution(height=1, width=4), images=1),
            SizeCount(size=Resolution(height=2, width=2), images=2),
        ),
        labels=(
            LabelShare(label_id=0, name="unlabeled", train_id=255, pixel_share=2 / 12, images=2),
            LabelShare(label_id=1, name="ego vehicle", train_id=255, pixel_share=1 / 12, images=1),
            LabelShare(label_id=7, name="road", train_id=0, pixel_share=6 / 12, images=3),
            LabelShare(label_id=33, name="bicycle", train_id=18, pixel_share=3 / 12, images=2),
        ),
        ignored_share=3 / 12,
        first_sample=first,
        problems=(),
    )


def test_progress_is_told_after_each_scene(drawn_root: Path) -> None:
    told: list[tuple[int, int]] = []
    inspect_folder(drawn_root, on_looked_at=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]


def test_two_damaged_files_of_one_scene_are_two_problems(tmp_path: Path) -> None:
    save_pair(tmp_path, Split.TRAIN, STEM, [[7, 7]])
    damaged = [place(tmp_path, Split.TRAIN, STEM) for place in (image_path, label_path)]
    for path in damaged:
        path.write_bytes(b"")
    assert [one.path for one in inspected(tmp_path).problems] == damaged


def test_train_ids_in_the_place_of_label_ids_are_a_problem(tmp_path: Path) -> None:
    save_pair(tmp_path, Split.TRAIN, STEM, [[7, 255, 34]])
    report = inspected(tmp_path)
    (problem,) = report.problems
    assert problem.path == label_path(tmp_path, Split.TRAIN, STEM)
    assert problem.what.endswith("(0 to 33): 34, 255")
    assert "*_labelIds.png" in problem.hint
    assert (report.cities, report.labels) == ((), ())


def test_test_images_are_counted_without_labels(tmp_path: Path) -> None:
    path = image_path(tmp_path, Split.TEST, STEM)
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(path)
    assert inspected(tmp_path) == FolderReport(
        root=tmp_path,
        cities=(CityCount(split=Split.TEST, city="ulm", images=1),),
        sizes=(SizeCount(size=Resolution(height=2, width=4), images=1),),
        labels=(),
        ignored_share=0.0,
        first_sample=None,
        problems=(),
    )


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "labels alone"])
def test_a_root_without_images_is_a_problem_and_no_exception(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.touch()
    if kind == "empty":
        root.mkdir()
    if kind == "labels alone":
        save_pair(root, Split.VAL, STEM, [[7]])
        (root / "leftImg8bit").rename(root / "images")
    report = inspected(root)
    named = root if kind in ("missing", "file") else root / "leftImg8bit"
    assert [one.path for one in report.problems] == [named]
    assert report.image_count == 0


def test_the_picture_shows_the_image_its_ids_and_what_is_trained(tmp_path: Path) -> None:
    sample = save_pair(tmp_path, Split.TRAIN, STEM, [[7, 9] * 8, [23, 23] * 8])
    path = tmp_path / "new" / "picture.png"
    write_picture(sample, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    road, parking, sky, ignored = (128, 64, 128), (250, 170, 160), (70, 130, 180), (0, 0, 0)
    assert {road, parking, sky, ignored} <= colours
    assert [one.name for one in path.parent.iterdir()] == ["picture.png"]


def test_a_picture_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    sample = save_pair(tmp_path, Split.TRAIN, STEM, [[7, 9]])
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "picture.png"
    with pytest.raises(FileError) as caught:
        write_picture(sample, place)
    assert str(place) in str(caught.value)
    assert "--picture" in str(caught.value.hint)
