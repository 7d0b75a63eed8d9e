from dataclasses import replace

import pytest
import torch

from bsprobe.records.units import Resolution
from bsprobe.records.variants import MemoryFormat, Variant
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.step import Batch
from tests.support.tiny_networks import VARIANT

CPU = torch.device("cpu")
CITYSCAPES = Variant(model="any", resolution=Resolution(height=512, width=1024))


def drawn(
    variant: Variant = CITYSCAPES, size: int = 2, *, device: torch.device = CPU, seed: int = 0
) -> Batch:
    return synthetic_batch(variant, size, device=device, seed=seed)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "resolution",
    [Resolution(height=512, width=1024), Resolution(height=33, width=47)],
    ids=str,
)
def test_a_batch_has_the_shapes_and_dtypes_of_a_real_one(resolution: Resolution, size: int) -> None:
    batch = drawn(replace(CITYSCAPES, resolution=resolution), size)
    height, width = resolution.height, resolution.width

    assert (batch.images.shape, batch.images.dtype) == ((size, 3, height, width), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((size, height, width), torch.int64)
    assert batch.images.is_contiguous()
    assert batch.labels.is_contiguous()


@pytest.mark.parametrize("classes", [19, 4])
def test_labels_are_all_classes_and_the_ignored_one(classes: int) -> None:
    labels = drawn(replace(CITYSCAPES, classes=classes)).labels

    assert labels.unique().tolist() == [*range(classes), 255]


def test_about_one_pixel_in_twenty_is_ignored() -> None:
    labels = drawn(size=4).labels

    assert (labels == 255).float().mean().item() == pytest.approx(1 / 20, rel=0.2)


def test_labels_are_constant_over_blocks_of_16_pixels_and_vary_between_them() -> None:
    labels = drawn().labels
    blocks = labels.unfold(1, 16, 16).unfold(2, 16, 16).flatten(3)

    assert torch.equal(blocks.amin(dim=3), blocks.amax(dim=3))
    assert (labels[:, :-16] != labels[:, 16:]).float().mean().item() > 0.8
    assert (labels[:, :, :-16] != labels[:, :, 16:]).float().mean().item() > 0.8


def test_blocks_are_cut_off_where_the_size_is_no_multiple_of_theirs() -> None:
    labels = drawn(replace(CITYSCAPES, resolution=Resolution(height=33, width=47))).labels

    assert torch.equal(labels[:, 16:31], labels[:, 17:32])
    assert torch.equal(labels[:, :, 32:46], labels[:, :, 33:47])


def test_images_are_normally_distributed_as_normalised_ones_are() -> None:
    images = drawn().images

    assert images.mean().item() == pytest.approx(0.0, abs=0.01)
    assert images.std().item() == pytest.approx(1.0, abs=0.01)


def test_equal_seeds_give_equal_batches_and_others_others() -> None:
    first, again, other = drawn(VARIANT, seed=3), drawn(VARIANT, seed=3), drawn(VARIANT, seed=4)

    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.labels, other.labels)


def test_a_batch_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)

    drawn(VARIANT)

    assert torch.equal(torch.rand(1), expected)


def test_images_are_channels_last_where_the_variant_says_so() -> None:
    plain = drawn(VARIANT).images
    images = drawn(replace(VARIANT, memory_format=MemoryFormat.NHWC)).images

    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    assert torch.equal(images, plain)


def test_a_batch_lives_on_the_device_that_was_asked_for() -> None:
    batch = drawn(VARIANT, device=torch.device("meta"))

    assert (batch.images.device.type, batch.labels.device.type) == ("meta", "meta")
