import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses
from torchvision import tv_tensors

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import to_train_ids
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.cityscapes.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    JointTransform,
    as_tv_tensors,
    training_transform,
    validation_transform,
)

SIZE = Resolution(height=32, width=64)
ROAD, SKY = 7, 23


def as_colour(normalised: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation; the result is from 0 to 255."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    return (normalised * std + mean) * 255


def blocks(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label image of large blocks, and an image whose brightness is seven times the train id."""
    coarse = rng.choice(np.array([7, 8, 11, 17, 21, 23, 26, 33], dtype=np.uint8), (2, 4))
    label = np.kron(coarse, np.ones((64, 64), dtype=np.uint8))
    return np.repeat(to_train_ids(label)[..., None] * 7, 3, axis=2).astype(np.uint8), label


def uniform(
    colour: tuple[int, int, int], height: int = 64
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image of one colour, twice as wide as high, and its label."""
    image = np.full((height, 2 * height, 3), colour, dtype=np.uint8)
    return image, np.full((height, 2 * height), ROAD, dtype=np.uint8)


@pytest.mark.parametrize(
    "transform",
    [validation_transform(SIZE), training_transform(SIZE, scales=(1.0, 1.0))],
    ids=["validation", "training"],
)
def test_white_becomes_one_minus_mean_over_deviation(transform: JointTransform) -> None:
    pixels, train_ids = transform(*as_tv_tensors(*uniform((255, 255, 255))))
    expected = [(1 - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert (pixels.shape, pixels.dtype, type(pixels)) == ((3, 32, 64), torch.float32, torch.Tensor)
    assert (train_ids.dtype, type(train_ids)) == (torch.int64, torch.Tensor)
    wanted = torch.tensor(expected)[:, None, None].expand(3, 32, 64)
    torch.testing.assert_close(pixels, wanted)
    assert train_ids.unique().tolist() == [0]


@pytest.mark.parametrize("size", [(32, 64), (37, 91), (300, 100), (500, 1000)])
def test_nearest_resizing_brings_no_new_label(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).choice(np.array([7, 33], dtype=np.uint8), (128, 256))
    resize = training_transform(Resolution(height=size[0], width=size[1]), scales=(1.0, 1.0))
    _, train_ids = resize(*as_tv_tensors(uniform((0, 0, 0), height=128)[0], label))
    assert train_ids.shape == size
    assert set(train_ids.unique().tolist()) - {255} == {0, 18}


def test_the_image_is_resized_smoothly_with_antialiasing() -> None:
    image, label = uniform((0, 0, 0))
    image[:, ::4] = 255  # each fourth column: without antialiasing, bilinear would miss them all
    quarter = Resolution(height=16, width=32)
    for shrink in (validation_transform(quarter), training_transform(quarter, scales=(1.0, 1.0))):
        pixels, _ = shrink(*as_tv_tensors(image, label))
        assert (as_colour(pixels)[:, :, 2:-2] - 255 / 4).abs().max() < 2


def test_training_keeps_image_and_label_aligned_through_scale_crop_and_flip() -> None:
    rng = np.random.default_rng(3)
    transform = training_transform(Resolution(height=96, width=192))
    for seed in range(12):
        torch.manual_seed(seed)
        image, label = blocks(rng)
        pixels, train_ids = transform(*as_tv_tensors(image, label))
        assert (pixels.dtype, train_ids.dtype) == (torch.float32, torch.int64)
        assert pixels.shape[1:] == train_ids.shape == (96, 192)
        is_kept = train_ids != 255
        seen = as_colour(pixels)[0] / 7
        is_equal = (seen - train_ids).abs() < 0.3
        assert is_equal[is_kept].float().mean() > 0.88  # the rest are the soft edges of blocks


def test_what_is_padded_is_mean_colour_in_the_image_and_ignored_in_the_label() -> None:
    torch.manual_seed(0)
    image, label = blocks(np.random.default_rng(0))
    transform = training_transform(Resolution(height=96, width=192), scales=(0.25, 0.25))
    pixels, train_ids = transform(*as_tv_tensors(image, label))
    is_padded = train_ids == 255
    assert 0.9 < is_padded.float().mean() < 1  # an image of 24x48 in a crop of 96x192
    assert pixels[:, is_padded].abs().max() < 0.011  # half a grey level


def test_scales_reach_from_the_smallest_to_the_largest_and_keep_the_proportions() -> None:
    pair = as_tv_tensors(*uniform((0, 0, 0)))
    transform = training_transform(SIZE, scales=(0.5, 1.0))
    heights = set()
    for seed in range(120):
        torch.manual_seed(seed)
        _, train_ids = transform(*pair)
        is_image = train_ids == 0
        height, width = int(is_image.any(1).sum()), int(is_image.any(0).sum())
        if 0 < height < 32 and 0 < width < 64 and is_image.sum() == height * width:
            heights.add(height)
            assert width <= 2 * height
    assert max(heights) > 28


def test_half_of_the_images_are_flipped() -> None:
    image, label = uniform((0, 0, 0), height=32)
    label[:, :32] = SKY
    transform = training_transform(SIZE, scales=(1.0, 1.0))
    flipped = 0
    for seed in range(200):
        torch.manual_seed(seed)
        _, train_ids = transform(*as_tv_tensors(image, label))
        flipped += int(train_ids[0, 0] == 0)
    assert 75 < flipped < 125


@pytest.mark.parametrize("scales", [(0.0, 1.0), (-1.0, 1.0), (1.5, 0.5), (float("nan"), 1.0)])
def test_impossible_scales_are_refused_with_a_hint(scales: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=f"{scales[0]:g} to {scales[1]:g}") as caught:
        training_transform(SIZE, scales=scales)
    assert "positive" in str(caught.value.hint)


def test_the_transforms_can_be_sent_to_worker_processes() -> None:
    image, label = blocks(np.random.default_rng(1))
    for transform in (validation_transform(SIZE), training_transform(SIZE)):
        copy = pickle.loads(pickle.dumps(transform))  # noqa: S301 - our own bytes
        assert copy(*as_tv_tensors(image, label))[0].shape == (3, 32, 64)


def test_caffes_input_is_blue_green_red_from_0_to_255_less_the_mean_colour() -> None:
    pair = as_tv_tensors(*uniform((200, 100, 50)))
    wanted = torch.tensor([50 - 104.00698793, 100 - 116.66876762, 200 - 122.67891434])
    bgr = InputNormalisation.CAFFE_BGR

    for transform in (
        validation_transform(SIZE, normalisation=bgr),
        training_transform(SIZE, scales=(1.0, 1.0), normalisation=bgr),
    ):
        given, label = transform(*pair)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given[:, 20, 20], wanted, rtol=0, atol=1e-3)
        assert (label == 0).all()


def test_validation_keeps_proportions_and_labels() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 120, 3), dtype=np.uint8)
    ids = rng.integers(0, 34, (60, 120), dtype=np.uint8)
    transform = validation_transform(Resolution(height=40, width=40))

    given, label = transform(*as_tv_tensors(image, ids))

    assert given.shape == (3, 40, 80)
    assert label.dtype == torch.int64
    np.testing.assert_array_equal(label.numpy(), to_train_ids(ids))
    whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(whole, size=(40, 80), mode="bilinear", antialias=True)[0]
    assert (as_colour(given) - resized).abs().max() < 1


def test_the_wrapped_pair_is_channels_first_with_train_ids() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    wrapped, mask = as_tv_tensors(image, np.full((2, 4), 33, dtype=np.uint8))
    assert isinstance(wrapped, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert wrapped[:, 1, 2].tolist() == image[1, 2].tolist()
    assert mask.unique().tolist() == [18]
