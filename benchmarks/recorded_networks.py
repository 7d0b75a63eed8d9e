"""Networks and losses that bsprobe does not provide, for `record_truth.py`.

Their names are `benchmarks/recorded_networks.py:NAME`, from the root of a checkout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _DoubleConvolution(nn.Sequential):
    convolution: type[nn.Module] = nn.Conv2d
    norm: type[nn.Module] = nn.BatchNorm2d

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            self.convolution(channels, width, 3, padding=1),
            self.norm(width),
            nn.ReLU(),
            self.convolution(width, width, 3, padding=1),
            self.norm(width),
            nn.ReLU(),
        )


class _DoubleConvolution3d(_DoubleConvolution):
    convolution = nn.Conv3d
    norm = nn.BatchNorm3d


class UNet(nn.Module):
    """U-Net with batch normalization (Ronneberger et al. 2015), padded, with `width` channels."""

    block = _DoubleConvolution
    convolution: type[nn.Module] = nn.Conv2d
    enlarging: type[nn.Module] = nn.ConvTranspose2d
    halving = staticmethod(functional.max_pool2d)

    def __init__(
        self, num_classes: int = 19, width: int = 64, depth: int = 4, channels: int = 3
    ) -> None:
        """Build it with `depth` halvings.

        Args:
            num_classes: The number of output channels.
            width: The channels of the first level.
            depth: The number of halvings.
            channels: The channels of the images.
        """
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            self.block(before, after)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            self.enlarging(2 * each, each, 2, stride=2) for each in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(self.block(2 * each, each) for each in reversed(widths[:-1]))
        self.head = self.convolution(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of the images' size."""
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            images = block(self.halving(images, 2) if level else images)
            kept.append(images)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            images = join(torch.cat([kept.pop(), up(images)], dim=1))
        logits: Tensor = self.head(images)
        return logits


class UNet3d(UNet):
    """U-Net for volumes of one channel, with four halvings and 16 channels at the first level."""

    block = _DoubleConvolution3d
    convolution = nn.Conv3d
    enlarging = nn.ConvTranspose3d
    halving = staticmethod(functional.max_pool3d)

    def __init__(self, num_classes: int = 4) -> None:
        """Build it for labels of `num_classes` classes."""
        super().__init__(num_classes, width=16, channels=1)


def segformer(num_classes: int = 19) -> nn.Module:
    """Build SegFormer-B0 of transformers, with random weights."""
    from transformers import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - an optional package
        SegformerConfig,
        SegformerForSemanticSegmentation,
    )

    network: nn.Module = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_classes))
    return network


def segformer_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Compute cross entropy of the logits, enlarged to the labels as in transformers' own loss."""
    logits = functional.interpolate(
        outputs.logits, size=labels.shape[-2:], mode="bilinear", align_corners=False
    )
    return functional.cross_entropy(logits, labels, ignore_index=255)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean squared error of the probabilities against the one-hot labels."""
    wanted = functional.one_hot(labels.clamp(max=outputs.shape[1] - 1), outputs.shape[1])
    return functional.mse_loss(outputs.softmax(dim=1), wanted.movedim(-1, 1).float())


def dice_and_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Compute soft Dice loss plus cross entropy, with equal weight."""
    classes = outputs.shape[1]
    wanted = functional.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1).float()
    found = outputs.softmax(dim=1)
    pixels = (0, *range(2, found.ndim))
    shared = 2 * (found * wanted).sum(dim=pixels)
    dice = 1 - (shared / ((found + wanted).sum(dim=pixels) + 1)).mean()
    return dice + functional.cross_entropy(outputs, labels, ignore_index=255)
