"""DeepLabV2 on a dilated ResNet, as its reimplementations for Cityscapes train it.

Source: Chen et al. 2017 (arXiv:1606.00915). It differs from torchvision's dilated ResNets, in
memory and in loading weights: the stride is in the first 1x1 convolution of a bottleneck, the
max-pool rounds up, and all blocks of stages 4 and 5 are dilated, the first ones included. Modules
have the names of the common ImageNet-initialised checkpoints (`layer5.conv2d_list.0.weight`).
"""

from collections.abc import Sequence

import torch
from torch import nn

from bsprobe.training.models.norms import NormLayer

EXPANSION = 4
WIDTH = 64
"""Channels of the first stage of a ResNet; each further stage has twice as many."""
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
MINI_BLOCKS = (1, 1, 1, 1)
MINI_WIDTH = 16
"""Channels of the first stage of `deeplabv2-mini`, which a CPU trains in minutes. It is not a
published network."""
ASPP_DILATIONS = (6, 12, 18, 24)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the first one has the stride."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        projects: bool,
        norm: NormLayer,
    ) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if projects:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                norm(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * width, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        return torch.relu_(y)


class ASPP(nn.Module):
    """Atrous spatial pyramid: the sum of four dilated 3x3 classifiers."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, classes, 3, padding=dilation, dilation=dilation)
            for dilation in ASPP_DILATIONS
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, H, W) to (N, classes, H, W)."""
        branches = iter(self.conv2d_list)
        y: torch.Tensor = next(branches)(x)
        for branch in branches:
            y = y + branch(x)
        return y


class DeepLabV2(nn.Module):
    """A ResNet with output stride 8 and an ASPP classifier; the logits are not upsampled."""

    def __init__(
        self, blocks: Sequence[int], *, classes: int, norm: NormLayer, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.layer1 = _stage(width, width, blocks[0], stride=1, dilation=1, norm=norm)
        self.layer2 = _stage(4 * width, 2 * width, blocks[1], stride=2, dilation=1, norm=norm)
        self.layer3 = _stage(8 * width, 4 * width, blocks[2], stride=1, dilation=2, norm=norm)
        self.layer4 = _stage(16 * width, 8 * width, blocks[3], stride=1, dilation=4, norm=norm)
        self.layer5 = ASPP(32 * width, classes)
        self._initialise()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to logits (N, classes, h, w); 512x1024 gives 65x129."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.layer5(x)
        return logits

    def _initialise(self) -> None:
        """Initialise the backbone after He et al., the classifier from N(0, 0.01).

        The last norm of a block starts at zero if it is learnt (Goyal et al. 2017, 5.1), so that
        gradients do not grow from block to block. Otherwise a new GradScaler skips its first five
        or more updates.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                scale = module.bn3.weight
                if isinstance(scale, nn.Parameter):
                    nn.init.zeros_(scale)
        for branch in self.layer5.conv2d_list:
            assert isinstance(branch, nn.Conv2d)  # noqa: S101 - ModuleList forgets the type
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type] # built with a bias above


def _stage(
    in_channels: int, width: int, blocks: int, *, stride: int, dilation: int, norm: NormLayer
) -> nn.Sequential:
    """Residual blocks of one width; the first one has the stride and the projection."""
    out_channels = width * EXPANSION
    first = Bottleneck(
        in_channels, width, stride=stride, dilation=dilation, projects=True, norm=norm
    )
    rest = [
        Bottleneck(out_channels, width, stride=1, dilation=dilation, projects=False, norm=norm)
        for _ in range(blocks - 1)
    ]
    return nn.Sequential(first, *rest)
