import hashlib
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from numpy.typing import NDArray
from PIL import Image

from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import LARGEST_LABEL_ID, to_train_ids
from bsprobe.training.cityscapes.samples import Split
from bsprobe.training.cityscapes.synthetic import draw_scene, plan_scenes
from tests.support.drawn import drawn

SMALL = Resolution(height=32, width=64)
LARGE = Resolution(height=128, width=256)


def draw_into(root: Path, count: int, seed: int) -> dict[str, str]:
    """Draw scenes and return the digest of each file by its path."""
    drawn(root, count, seed=seed, size=SMALL)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def official_mean_iou(root: Path, predictions: Path, shift: int) -> float:
    """The official mean IoU of the labels, shifted by some columns, as predictions."""
    args = official.CArgs()
    args.__dict__.update(vars(official.args))
    # Instance scores would need *_instanceIds.png.
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.predictionPath, args.predictionWalk = str(predictions), None
    truths = sorted(root.glob("gtFine/val/*/*_gtFine_labelIds.png"))
    predictions.mkdir()
    for path in truths:
        label = np.roll(np.asarray(Image.open(path)), shift, axis=1)
        Image.fromarray(label).save(predictions / path.name.replace("gtFine_labelIds", "predicted"))
    found = [official.getPrediction(args, str(truth)) for truth in truths]
    result = official.evaluateImgLists(found, [str(truth) for truth in truths], args)
    return float(result["averageScoreClasses"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = draw_into(tmp_path / "first", 3, seed=5)
    again = draw_into(tmp_path / "again", 3, seed=5)
    other = draw_into(tmp_path / "other", 3, seed=6)
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    pictures = [draw_scene(0, size=SMALL, seed=seed)[0] for seed in (5, 6)]
    assert (pictures[0] != pictures[1]).mean() > 0.5  # not only the note in the file


def test_the_first_images_do_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    few, many = draw_into(tmp_path / "few", 2, seed=1), draw_into(tmp_path / "many", 7, seed=1)
    assert few.items() <= many.items()


def test_the_files_have_exactly_the_official_names(tmp_path: Path) -> None:
    assert sorted(draw_into(tmp_path, 2, seed=0)) == [
        "gtFine/train/ahornstadt/ahornstadt_000000_000019_gtFine_labelIds.png",
        "gtFine/val/lindenfurt/lindenfurt_000001_000019_gtFine_labelIds.png",
        "leftImg8bit/train/ahornstadt/ahornstadt_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/lindenfurt/lindenfurt_000001_000019_leftImg8bit.png",
    ]


def test_a_fifth_is_for_validation_and_there_are_five_cities() -> None:
    planned = plan_scenes(40)
    of_split = [scene.split for scene in planned]
    assert (of_split.count(Split.TRAIN), of_split.count(Split.VAL)) == (32, 8)
    cities = {"ahornstadt", "buchental", "eichhafen", "lindenfurt", "ulmenbach"}
    assert {scene.stem.partition("_")[0] for scene in planned} == cities


def test_forty_scenes_show_all_classes_in_both_splits_and_something_ignored() -> None:
    seen: dict[Split, NDArray[np.int64]] = {
        split: np.zeros(256, dtype=np.int64) for split in (Split.TRAIN, Split.VAL)
    }
    for scene in plan_scenes(40):
        image, label = draw_scene(scene.index, size=LARGE, seed=0)
        assert image.dtype == label.dtype == np.uint8
        assert label.max() <= LARGEST_LABEL_ID
        seen[scene.split] += np.bincount(to_train_ids(label).ravel(), minlength=256)
    for counts in seen.values():
        shares = counts / counts.sum()
        assert np.flatnonzero(counts).tolist() == [*range(19), 255]
        assert 0.02 < shares[255] < 0.2
        assert shares[:19].min() > 0.001
        assert shares[0] == shares[:19].max()  # road, as in the original


def test_the_rim_and_the_bonnet_are_ignored_as_in_the_original() -> None:
    labels = [draw_scene(index, size=SMALL, seed=0)[1] for index in range(6)]
    for label in labels:
        rim = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
        assert set(rim.tolist()) <= {1, 3}
    assert any((label[-2] == 1).mean() > 0.5 for label in labels)


@pytest.mark.parametrize("size", [(32, 32), (33, 65), (96, 40), (40, 400)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    for index in range(4):
        image, label = draw_scene(index, size=Resolution(height=size[0], width=size[1]), seed=2)
        assert (image.shape, label.shape) == ((*size, 3), size)
        assert np.unique(label).size > 5
        assert not (label[size[0] * 3 // 4 :] == 23).any()  # no sky below the road


def test_the_colours_of_the_classes_are_consistent_from_seed_to_seed() -> None:
    """A network can learn the classes only if each is nearest to itself in colour."""

    def mean_colours(seed: int) -> NDArray[np.float64]:
        scenes = [draw_scene(index, size=LARGE, seed=seed) for index in range(12)]
        pixels = np.concatenate([image.reshape(-1, 3) for image, _ in scenes])
        train_ids = np.concatenate([to_train_ids(label).ravel() for _, label in scenes])
        return np.stack([pixels[train_ids == one].mean(0) for one in range(19)])

    first, second = mean_colours(0), mean_colours(1)
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    own = np.diagonal(distances)
    assert (distances < own[:, None]).sum(1).max() <= 4  # of 18 others; rare classes vary
    assert (distances.argmin(1) == np.arange(19)).sum() >= 12


def test_the_official_evaluation_reads_the_folder_and_gives_itself_full_marks(
    drawn_root: Path, tmp_path: Path
) -> None:
    assert official_mean_iou(drawn_root, tmp_path / "perfect", shift=0) == 1.0
    assert 0.1 < official_mean_iou(drawn_root, tmp_path / "shifted", shift=9) < 0.8


def test_a_used_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError) as caught:
        draw_into(tmp_path, 1, seed=0)
    assert str(caught.value) == f"{tmp_path} is not empty"
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(FileError, match="is a file") as caught:
        draw_into(path, 1, seed=0)
    assert "new folder" in str(caught.value.hint)
    with pytest.raises(FileError, match="Not a directory"):
        draw_into(path / "below", 1, seed=0)


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [
        (0, 0, "0 images"),
        (1_000_000, 0, "1000000 images"),
        (1, -1, "the seed -1"),
    ],
)
def test_impossible_numbers_are_refused(
    tmp_path: Path, count: int, seed: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        draw_into(tmp_path, count, seed=seed)
    assert str(caught.value).startswith(message)


def test_nothing_half_written_stays_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FileError) as caught:
        draw_into(tmp_path / "new", 1, seed=0)
    assert "_leftImg8bit.png " in str(caught.value)
    assert str(caught.value).endswith(": No space left on device")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
