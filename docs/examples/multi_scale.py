"""Batches of a training with several image sizes, one of which is drawn for each batch."""

import torch
from torch import Tensor

SIZES = ((512, 1024), (640, 1280), (768, 1536), (1024, 2048))


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Return images of a size that is drawn at random, and their labels."""
    height, width = SIZES[int(torch.randint(len(SIZES), ()))]
    return torch.randn(size, 3, height, width), torch.randint(0, 5, (size, height, width))
