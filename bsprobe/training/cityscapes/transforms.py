"""Joint transforms of an image and its label.

Both are `tv_tensors` in one transform: torchvision gives them the same scale, crop and flip,
resizes the image bilinearly and the label by nearest neighbour, and normalises the image only.
Sizes are (height, width).
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import IGNORED_TRAIN_ID, to_train_ids
from bsprobe.training.cityscapes.normalisation import InputNormalisation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Red, green, blue, of torchvision's ImageNet weights."""
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
"""Red, green, blue from 0 to 255, of weights converted from Caffe."""
DEEPLAB_SCALES = (0.5, 1.5)
"""The range of random scales in the released recipe of DeepLabV2."""


def _channels_reversed(image: torch.Tensor) -> torch.Tensor:
    """Turn RGB into BGR. It is a named function because data loaders pickle it."""
    return image.flip(-3)


_NORMALISE = {
    InputNormalisation.IMAGENET_RGB: (
        v2.Normalize(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD)),
    ),
    InputNormalisation.CAFFE_BGR: (
        v2.Normalize(mean=[mean / 255 for mean in CAFFE_MEAN], std=[1 / 255] * 3),
        v2.Lambda(_channels_reversed, tv_tensors.Image),
    ),
}
_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)

JointTransform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[torch.Tensor, torch.Tensor]]
"""From an image (uint8, 3xHxW) and train ids (uint8, HxW) to float32 3xHxW and int64 HxW."""


def as_tv_tensors(
    image: NDArray[np.uint8], label_ids: NDArray[np.integer]
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Wrap an image and its labels, with the label ids mapped to train ids.

    The labels are mapped before the transforms, which pad them with the train id 255.

    Args:
        image: HxWx3, red, green, blue.
        label_ids: HxW label ids.
    """
    channels_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    train_ids = torch.from_numpy(to_train_ids(label_ids))
    return tv_tensors.Image(channels_first), tv_tensors.Mask(train_ids)


def validation_transform(
    crop: Resolution, *, normalisation: InputNormalisation = InputNormalisation.IMAGENET_RGB
) -> JointTransform:
    """Return the transform of validation images: to scale 1 of `training_transform`, no crop.

    The image keeps its proportions. The label keeps its size: predictions are resized to it.
    """
    transform = _composed(
        v2.Resize(
            min(crop.height, crop.width), interpolation=InterpolationMode.BILINEAR, antialias=True
        ),
        normalisation=normalisation,
    )
    return partial(_image_alone, transform)


def _image_alone(
    transform: JointTransform, image: tv_tensors.Image, label: tv_tensors.Mask
) -> tuple[torch.Tensor, torch.Tensor]:
    transformed, _ = transform(image, tv_tensors.Mask(label[:1, :1]))
    return transformed, label.as_subclass(torch.Tensor).long()


def training_transform(
    crop: Resolution,
    *,
    scales: tuple[float, float] = DEEPLAB_SCALES,
    normalisation: InputNormalisation = InputNormalisation.IMAGENET_RGB,
) -> JointTransform:
    """Return the transform of training images: random scale, crop and flip, then normalise.

    The image keeps its proportions. At scale 1 its shorter side equals that of the crop. If the
    scaled image is smaller than the crop, the image is padded with the mean colour and the label
    with 255. The random numbers are torch's, so a `DataLoader` seeds them per worker.

    Args:
        crop: Height and width of the crop.
        scales: The smallest and the largest scale.
        normalisation: The normalisation of the image.

    Raises:
        UsageError: The scales are not two positive numbers, the smaller one first.
    """
    if not 0 < scales[0] <= scales[1]:
        raise UsageError(
            f"invalid range of scales: {scales[0]:g} to {scales[1]:g}",
            hint="give two positive numbers, the smaller one first, for example 0.5 and 1.5",
        )
    shorter = min(crop.height, crop.width)
    smallest = max(1, round(scales[0] * shorter))
    largest = max(1, round(scales[1] * shorter))
    return _composed(
        v2.RandomResize(
            min_size=smallest,
            max_size=largest + 1,  # RandomResize never draws its upper bound
            interpolation=InterpolationMode.BILINEAR,
            antialias=True,
        ),
        v2.RandomCrop(
            (crop.height, crop.width),
            pad_if_needed=True,
            fill={tv_tensors.Image: _MEAN_COLOUR, tv_tensors.Mask: IGNORED_TRAIN_ID},
        ),
        v2.RandomHorizontalFlip(p=0.5),
        normalisation=normalisation,
    )


def _composed(
    *geometry: Callable[..., object], normalisation: InputNormalisation
) -> JointTransform:
    """Compose the steps on uint8, a quarter of the bytes of float32, then the conversion."""
    steps = v2.Compose(
        [
            *geometry,
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            *_NORMALISE[normalisation],
            v2.ToPureTensor(),  # a subclass would slow the network's arithmetic down
        ]
    )
    return cast("JointTransform", steps)
