"""Batches of real images."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bsprobe.records.errors import FileError
from bsprobe.records.trials import DataSource, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.training.batches import batches, images_per_second
from bsprobe.training.images import check_images
from bsprobe.training.step import Batch
from tests.support.drawn import cut_off_image, drawn

SPEC = TrialSpec(
    variant=Variant(model="deeplabv2-resnet50", resolution=Resolution(height=48, width=64)),
    batch_size=5,
)


def first(spec: TrialSpec, count: int) -> list[Batch]:
    stream = itertools.islice(batches(spec, torch.device("cpu")), count)
    return [batch for batch in stream if isinstance(batch, Batch)]


def test_real_batches_have_the_shapes_and_labels_of_synthetic_ones(drawn_root: Path) -> None:
    real, synthetic = (
        first(spec, 1)[0] for spec in (replace(SPEC, data=DataSource(root=str(drawn_root))), SPEC)
    )
    for name in ("images", "labels"):
        one, other = getattr(real, name), getattr(synthetic, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert set(real.labels.unique().tolist()) <= {*range(19), 255}
    # Normalised images have about zero mean and unit deviation.
    assert real.images.abs().mean() < 3


def test_a_few_images_serve_any_batch_and_never_end(drawn_root: Path) -> None:
    made = first(replace(SPEC, batch_size=9, data=DataSource(root=str(drawn_root), subset=2)), 3)
    assert [batch.images.shape[0] for batch in made] == [9, 9, 9]


def test_the_same_seed_draws_the_same_images(drawn_root: Path) -> None:
    spec = replace(SPEC, data=DataSource(root=str(drawn_root)))
    made = []
    for _ in range(2):
        torch.manual_seed(0)  # the transforms draw from the global generator
        made.append(first(spec, 2))
    for one, other in zip(*made, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_subset_uses_the_first_images_only(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "scenes", 6)
    _, *others = sorted((folder / "leftImg8bit" / "train").rglob("*.png"))
    for image in others:
        image.write_bytes(b"damaged")  # opening one of these fails
    (batch,) = first(replace(SPEC, data=DataSource(root=str(folder), subset=1)), 1)
    assert batch.images.shape[0] == 5
    with pytest.raises(FileError):
        first(replace(SPEC, batch_size=40, data=DataSource(root=str(folder))), 1)


def test_the_loaders_rate_counts_images(drawn_root: Path) -> None:
    stream = batches(replace(SPEC, data=DataSource(root=str(drawn_root))), torch.device("cpu"))
    assert images_per_second(stream) > 0


def test_a_folder_that_is_no_data_set_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=str(tmp_path)) as refused:
        check_images(DataSource(root=str(tmp_path)))
    assert refused.value.hint is not None


def test_a_damaged_image_is_refused_by_name(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "damaged", 2)
    image = cut_off_image(folder)
    with pytest.raises(FileError, match=image.name):
        check_images(DataSource(root=str(folder)))
