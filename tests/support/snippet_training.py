"""A tiny network and two classes of images with different brightness, to run the snippet with."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

UPDATES = 5


class Stripes(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two classes of different brightness, with different numbers of ignored pixels."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.zeros(8, 8, dtype=torch.int64)
        labels[:, 4:] = 1
        images = (labels.float() - 0.5).expand(3, 8, 8).clone()
        labels[: index % 8] = 255
        return images, labels


class Net(nn.Module):
    """A backbone and a classifier with the names that the snippet expects."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer5 = nn.Conv2d(8, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer5(torch.relu(self.conv1(images)))
        return logits


def execute(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(text, "snippet.py", "exec"), names)  # noqa: S102 - the text is bsprobe's snippet
    return names


class Few(Stripes):
    """As many images as an effective batch, so every update sees all of them in any order."""

    def __len__(self) -> int:
        return 20


def trained(text: str, accumulation: int, *own: Any) -> tuple[list[float], list[float]]:
    """Run a few updates of a snippet; return the losses and the sums of the parameters.

    Args:
        text: The snippet.
        accumulation: The accumulation steps.
        own: The user's loss, if the snippet takes one.
    """
    torch.manual_seed(0)
    names = execute(text)
    names |= {"MICRO_BATCH": 5, "ACCUMULATION_STEPS": accumulation, "LEARNING_RATE": 0.05}
    net = Net()
    losses = names["train"](net, *own, Few(), device="cpu", updates=UPDATES, workers=0)
    return losses, [float(parameter.detach().sum()) for parameter in net.parameters()]
