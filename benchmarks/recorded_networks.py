"""Networks and losses of other people's kind that `record_truth.py` records.

Their names are `benchmarks/recorded_networks.py:NAME`, from the root of a checkout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _DoubleConvolution(nn.Sequential):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """U-Net with batch normalization (Ronneberger et al. 2015), padded, with `width` channels."""

    def __init__(self, num_classes: int = 19, width: int = 64, depth: int = 4) -> None:
        """Build it with `depth` halvings."""
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _DoubleConvolution(before, after)
            for before, after in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * each, each, 2, stride=2) for each in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(
            _DoubleConvolution(2 * each, each) for each in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the size of the images."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            images = block(functional.max_pool2d(images, 2) if level else images)
            kept.append(images)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            images = join(torch.cat([kept.pop(), up(images)], dim=1))
        logits: Tensor = self.head(images)
        return logits


def segformer(num_classes: int = 19) -> nn.Module:
    """SegFormer-B0 of transformers, with random weights."""
    from transformers import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - an optional package
        SegformerConfig,
        SegformerForSemanticSegmentation,
    )

    network: nn.Module = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_classes))
    return network


def segformer_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Cross entropy of the logits, enlarged to the labels as transformers' own loss does."""
    logits = functional.interpolate(
        outputs.logits, size=labels.shape[-2:], mode="bilinear", align_corners=False
    )
    return functional.cross_entropy(logits, labels, ignore_index=255)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the probabilities against the labels, one-hot."""
    wanted = functional.one_hot(labels.clamp(max=outputs.shape[1] - 1), outputs.shape[1])
    return functional.mse_loss(outputs.softmax(dim=1), wanted.movedim(-1, 1).float())


def dice_and_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice loss and cross entropy, of equal weight."""
    classes = outputs.shape[1]
    wanted = functional.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1).float()
    found = outputs.softmax(dim=1)
    shared = 2 * (found * wanted).sum(dim=(0, 2, 3))
    dice = 1 - (shared / ((found + wanted).sum(dim=(0, 2, 3)) + 1)).mean()
    return dice + functional.cross_entropy(outputs, labels, ignore_index=255)
