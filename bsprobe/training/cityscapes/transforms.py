"""What happens to an image and its label on the way into the network, jointly.

Both go through the same transform as `tv_tensors`: torchvision then gives them the same scale,
crop and flip, resizes the image bilinearly and the label by nearest neighbour, and normalises
the image alone. Sizes are (height, width): `1024x512` as often written in notes means 1024 wide.
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
"""Red, green, blue; what torchvision's ImageNet weights were trained with."""
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
"""Red, green, blue from 0 to 255; what the weights converted from Caffe were trained with."""
DEEPLAB_SCALES = (0.5, 1.5)
"""The range of random scales in the released DeepLabV2 recipe."""


def _channels_reversed(image: torch.Tensor) -> torch.Tensor:
    """Red, green, blue to blue, green, red; a function by name, for loaders that pickle it."""
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
"""Image uint8 3xHxW and train ids uint8 HxW in; float32 3xHxW and int64 HxW out."""


def as_tv_tensors(
    image: NDArray[np.uint8], label_ids: NDArray[np.integer]
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Wrap what was read from disk, with the label ids already mapped to train ids.

    The labels are mapped first, so that whatever is padded later can be 255 and mean ignored.

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
    """Bring the image to scale 1 of `training_transform`, and leave the label as it is.

    The image keeps its proportions; predictions are to be brought to the size of the label.
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
    """Scale at random, crop at random, flip half of the images, normalise.

    The image keeps its proportions. At scale 1 its shorter side equals that of the crop; where
    the scaled image is smaller than the crop, the image is padded with the mean colour and the
    label with 255. The random numbers are torch's, so a `DataLoader` seeds them per worker.

    Raises:
        UsageError: The scales are not two positive numbers, the smaller one first.
    """
    if not 0 < scales[0] <= scales[1]:
        raise UsageError(
            f"{scales[0]:g} to {scales[1]:g} is no range of scales",
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
    """The given steps on uint8, which is a quarter of the bytes, and then to float."""
    steps = v2.Compose(
        [
            *geometry,
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            *_NORMALISE[normalisation],
            v2.ToPureTensor(),  # the network's arithmetic is then spared the subclass's dispatch
        ]
    )
    return cast("JointTransform", steps)
