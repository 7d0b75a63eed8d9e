"""User-written networks, with blocks that no list names."""

from typing import Any

import torch
from torch import nn


def double_conv(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class DoubleConv(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = double_conv(channels, width)
        self.dropout = nn.Dropout2d(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.dropout(self.layers(x))
        return y


class UNet(nn.Module):
    """A U-Net of three levels whose blocks are attributes."""

    def __init__(self, num_classes: int = 3, width: int = 4, block: Any = DoubleConv) -> None:
        super().__init__()
        self.down1 = block(3, width)
        self.down2 = block(width, 2 * width)
        self.down3 = block(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.up2 = block(6 * width, 2 * width)
        self.up1 = block(3 * width, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.down3(self.pool(second))
        y = self.up2(torch.cat([second, self.up(third)], dim=1))
        y = self.up1(torch.cat([first, self.up(y)], dim=1))
        logits: torch.Tensor = self.head(y)
        return logits


def unet_of_sequences() -> UNet:
    """Build a U-Net whose blocks are made by a function and have no class."""
    return UNet(block=double_conv)


class Around(nn.Module):
    """An encoder step, the inner network and a decoder step, nested as in MONAI."""

    def __init__(self, inside: nn.Module, width: int) -> None:
        super().__init__()
        self.down = DoubleConv(width, width)
        self.inside = inside
        self.up = DoubleConv(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(x)
        z: torch.Tensor = self.up(torch.cat([y, self.inside(y)], dim=1))
        return z


def nested(num_classes: int = 3) -> nn.Module:
    inside = Around(Around(Around(nn.Conv2d(4, 4, 1), 4), 4), 4)
    return nn.Sequential(nn.Conv2d(3, 4, 1), inside, nn.Conv2d(4, num_classes, 1))


def columns() -> nn.Module:
    """Build nested networks side by side."""
    return nn.Sequential(*[Around(Around(nn.Conv2d(3, 3, 1), 3), 3) for _ in range(4)])


def chain_of_blocks() -> nn.Module:
    return nn.Sequential(*[DoubleConv(3, 3) for _ in range(4)])


def long_chain() -> nn.Module:
    """Build a chain of bare layers, some of which work in place and cannot run twice."""
    layers = [(nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(inplace=True)) for _ in range(6)]
    return nn.Sequential(*[layer for pair in layers for layer in pair])


class Dense(nn.Module):
    """A network whose blocks get a growing list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Joined(3 * count) for count in range(1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for block in self.blocks:
            features.append(block(features))
        return features[-1]


class Joined(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = DoubleConv(channels, 3)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        y: torch.Tensor = self.block(torch.cat(features, dim=1))
        return y


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(DoubleConv(3, 3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class Siamese(nn.Module):
    """Two encoders of one class, each half of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.left = Encoder()
        self.right = Encoder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.left(x) + self.right(x)
        return y


class WithMethod(nn.Module):
    """A network with its own checkpointing method, as in timm, which may raise."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.stem = DoubleConv(3, 3)
        self.rest = DoubleConv(3, 3)
        self.refuses = refuses
        self.is_on = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:  # noqa: FBT001, FBT002 - as timm has it
        assert not (enable and self.refuses), "not supported"
        self.is_on = enable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.rest(self.stem(x))
        return y


class WithBackbone(nn.Module):
    """A network that contains another library's network."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = WithMethod()
        self.first = DoubleConv(3, 3)
        self.second = DoubleConv(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(self.backbone(x)))
        return y


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, 3), nn.Linear(8, 3))
