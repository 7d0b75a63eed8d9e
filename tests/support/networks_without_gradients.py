"""User-written networks in which some parameters get no gradient."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Reentrant(nn.Module):
    """A network whose first block is in a reentrant checkpoint without gradients for its input."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(checkpoint(self.block, x, use_reentrant=True))
        return out


class Unused(nn.Module):
    """A network with an unused, half-frozen layer, and a layer that only some steps use."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 8, 3)
        next(self.unused.parameters()).requires_grad = False
        self.sometimes = nn.Conv2d(3, 3, 1)
        self.head = nn.Conv2d(3, num_classes, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.head(self.sometimes(x) if self.calls % 2 == 0 else x)
        return out
