"""Networks for tests, small enough for hundreds of fast steps."""

import torch
from torch import nn

from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.training.models.norms import LAYERS

VARIANT = Variant(model="tiny", resolution=Resolution(height=32, width=48), classes=4)
"""A variant for tests in which `build_model` is replaced by one of these classes."""


class TinyNet(nn.Module):
    """Two convolutions around the variant's norm; logits at a quarter of the size, as (N, c, h, w).

    Attributes:
        calls: The number of forward passes so far.
        logits_dtypes: The dtype of the output of each pass.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2), LAYERS[variant.norm](8), nn.ReLU()
        )
        self.classifier = nn.Conv2d(8, variant.logits, 1)
        self.calls = 0
        self.logits_dtypes: list[torch.dtype] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(images))
        self.calls += 1
        self.logits_dtypes.append(logits.dtype)
        return logits


class TwoHeadedNet(nn.Module):
    """A network with torchvision's dict of two outputs."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.main = TinyNet(variant)
        self.auxiliary = TinyNet(variant)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.main(images), "aux": self.auxiliary(images)}


class OverflowingNet(TinyNet):
    """A network whose gradients overflow in the given backward passes, counted from 1."""

    def __init__(self, variant: Variant, *, overflows: frozenset[int]) -> None:
        super().__init__(variant)
        self._overflows = overflows

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        if self.calls in self._overflows:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits
