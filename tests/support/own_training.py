"""User-supplied parts of a workload."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses


def network(
    width: int = 8,
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    num_classes: int = 5,
    in_channels: int = 3,
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        norm_layer(width),
        nn.ReLU(),
        nn.Conv2d(width, num_classes, 1),
    )


class Named(nn.Module):
    """A network that takes its inputs by name, and has no norm to replace."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(images) * weight
        return outputs


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters())


def two_rates(model: nn.Sequential) -> torch.optim.Optimizer:
    groups = [
        {"params": model[0].parameters(), "lr": 0.1, "name": "stem"},
        {"params": model[3].parameters(), "lr": 0.4},
    ]
    return torch.optim.SGD(groups)


def no_optimizer(_: nn.Module) -> str:
    return "SGD"


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 64, 64), torch.rand(size, 5, 64, 64)


def named_batch(size: int) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    images = torch.randn(size, 3, 64, 64)
    return {"images": images, "weight": torch.ones(size, 1, 1, 1)}, [images]


def fixed_batch(_: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(7, 3, 64, 64), torch.rand(7, 5, 64, 64)


def only_inputs(size: int) -> torch.Tensor:
    return torch.randn(size, 3, 64, 64)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.l1_loss(outputs.float(), targets)


def named_loss(outputs: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
    return F.mse_loss(outputs[:, :3].float(), targets[0])


class Training:
    """Parts as methods of a class."""

    @staticmethod
    def network() -> nn.Module:
        return network()
