"""User-written networks and optimizers that keep tensors from step to step."""

from collections import deque
from dataclasses import replace

import torch
from torch import nn

from bsprobe.records.variants import Variant
from tests.support.tiny_networks import VARIANT
from tests.support.traced_networks import PlainNet


class KeepsOutputs(PlainNet):
    """Keeps its last outputs, for example for a loss over time."""

    def __init__(self, variant: Variant, *, outputs: int = 1) -> None:
        super().__init__(variant)
        self.outputs: deque[torch.Tensor] = deque(maxlen=outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        self.outputs.append(logits.detach().clone())
        return logits


class AssignsStatistics(PlainNet):
    """Assigns a new tensor to its running mean; BatchNorm writes to the old one."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        self.mean = 0.9 * self.mean + 0.1 * features.detach().mean((0, 2, 3))
        logits: torch.Tensor = self.classifier(torch.relu(features))
        return logits


class Hoards(PlainNet):
    """Keeps all its outputs, like a list of losses that is never cleared."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.kept: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        self.kept.append(logits.detach().clone())
        return logits


class HoardsGraphs(PlainNet):
    """Keeps scalars with their graphs, of which the loss does not depend on."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.kept: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        self.kept.append(torch.sigmoid(self.classifier.weight).sum())
        return logits


class Alternates(PlainNet):
    """Keeps its outputs in every other step only."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.calls = 0
        self.kept: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        self.calls += 1
        self.kept = logits.detach().clone() if self.calls % 2 else None
        return logits


class AssignsState(torch.optim.SGD):
    """Assigns new state in each step, like Hugging Face's Adafactor."""

    def step(self, closure: None = None) -> None:  # type: ignore[override] # SGD's, without a closure
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["rms"] = parameter.norm()
                self.state[parameter]["copy"] = parameter.detach().clone()


def assigns_state(model: nn.Module) -> torch.optim.Optimizer:
    return AssignsState(model.parameters(), lr=1e-3, momentum=0.9)


def five_outputs(num_classes: int = 4) -> nn.Module:
    return KeepsOutputs(replace(VARIANT, classes=num_classes), outputs=5)


def hoards(num_classes: int = 4) -> nn.Module:
    return Hoards(replace(VARIANT, classes=num_classes))


def hoards_graphs(num_classes: int = 4) -> nn.Module:
    return HoardsGraphs(replace(VARIANT, classes=num_classes))
