"""One small network, uncompiled and with `torch.compile` at each possible place."""

import torch
from torch import nn


class Written(nn.Module):
    """Two convolutions with a norm between them."""

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(self.activated(self.norm(self.first(images))))
        return outputs

    def activated(self, values: torch.Tensor) -> torch.Tensor:
        return torch.relu(values) * 2


def written() -> nn.Module:
    return Written()


def as_a_whole() -> nn.Module:
    compiled = torch.compile(Written())
    assert isinstance(compiled, nn.Module)
    return compiled


def in_place() -> nn.Module:
    network = Written()
    network.compile()
    return network


def a_module_inside() -> nn.Module:
    network = Written()
    network.first = torch.compile(network.first)  # type: ignore[assignment] # the wrapper is a module
    return network


def a_module_inside_in_place() -> nn.Module:
    network = Written()
    network.first.compile(fullgraph=True)
    return network


class WithFunction(Written):
    """A network whose activation is a compiled function."""

    activated = torch.compile(Written.activated)


def a_function() -> nn.Module:
    return WithFunction()


def compiled_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer.step = torch.compile(optimizer.step)  # type: ignore[method-assign] # as PyTorch's tutorial does it
    return optimizer


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
