"""Batches as data loaders return them: dicts, and lists of images with their objects."""

from typing import Any

import torch
from torch import Tensor


def mixed(size: int) -> dict[str, Any]:
    """Return images and masks, with entries that no network takes."""
    return {
        "image": torch.randn(size, 3, 256, 256),
        "mask": torch.randint(0, 5, (size, 256, 256)),
        "name": [f"image {number}" for number in range(size)],
        "spacing": 0.5,
    }


def with_labels(size: int) -> dict[str, Tensor]:
    """Return named arguments of transformers' networks, which return the loss."""
    return {
        "pixel_values": torch.randn(size, 3, 512, 512),
        "labels": torch.randint(0, 19, (size, 512, 512)),
    }


def detection(size: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return images with two boxes each."""
    boxes = torch.tensor([[10.0, 10.0, 100.0, 120.0], [50.0, 30.0, 200.0, 200.0]])
    images = [torch.rand(3, 240, 320) for _ in range(size)]
    targets = [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(size)]
    return images, targets
