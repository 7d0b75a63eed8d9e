"""A U-Net and its loss, as users write them."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses


def two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions with BatchNorm that keep the size of the image."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """A U-Net of five levels."""

    def __init__(self, classes: int = 5, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(map(two_convolutions, [3, *widths], widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2)
            for above, below in itertools.pairwise(widths)
        )
        self.merge = nn.ModuleList(two_convolutions(2 * each, each) for each in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) of images (N, 3, H, W)."""
        x, kept = images, []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([kept[level], self.up[level](x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def dice_and_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of both losses, for logits (N, classes, H, W) and labels (N, H, W)."""
    chances = logits.softmax(dim=1)
    wanted = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    overlap = (chances * wanted).sum((0, 2, 3))
    whole = chances.sum((0, 2, 3)) + wanted.sum((0, 2, 3))
    return 1 - (2 * overlap / (whole + 1)).mean() + F.cross_entropy(logits, labels)
