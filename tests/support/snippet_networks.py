"""Networks and losses that snippets are tested with, in the forms that users have them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from tests.support.snippet_training import Net


class Found(NamedTuple):
    """Outputs of a network with its logits by name."""

    logits: Tensor
    aux_logits: Tensor | None = None


class Both(dict[str, Any]):
    """Entries that are attributes too, as in the outputs of transformers' networks."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Returning(nn.Module):
    """A network that returns its logits in another form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = Net()
        self.form = form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.net(images))


class Auxiliary(nn.Module):
    """A network with torchvision's two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.second = Net(), Net()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.main(images), "aux": self.second(images)}


class Classifier(nn.Module):
    """A network with one class for each image."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images).mean((2, 3))
        return logits


class Scaled(Net):
    """A network with two inputs."""

    def forward(self, images: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return super().forward(images * weight)


class WithLoss(nn.Module):
    """A network that takes the labels and returns its loss, as transformers' do."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = Net()
        self.form = form

    def forward(self, pixel_values: Tensor, labels: Tensor) -> Any:
        return self.form(of_pixels(self.net(pixel_values), labels))


class Detector(nn.Module):
    """A network that takes a list of images and a list of targets, and returns its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        found = torch.stack([self.net(image[None]).mean() for image in images])
        wanted = torch.stack([target["boxes"].sum() for target in targets])
        return {"boxes": F.mse_loss(found, wanted), "scores": found.abs().mean()}


def of_pixels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the valid pixels."""
    mode = "bilinear" if labels.dim() == 3 else "trilinear"
    large = F.interpolate(logits, size=labels.shape[1:], mode=mode, align_corners=False)
    return F.cross_entropy(large, labels, ignore_index=255)


def of_first(outputs: Tensor, targets: Any) -> Tensor:
    """Return the loss for the first of several targets."""
    first = next(iter(targets.values())) if isinstance(targets, dict) else targets[0]
    return F.mse_loss(outputs, first)


def of_boxes(outputs: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Return a mean over images with a list of targets."""
    wanted = torch.stack([target["boxes"].sum() for target in targets])
    return F.mse_loss(outputs.mean((1, 2, 3)), wanted)


def single_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the valid pixels."""
    large = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    valid = labels != 255
    return F.binary_cross_entropy_with_logits(large[:, 0][valid], (labels[valid] == 1).float())


def at_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss at the size of the logits: a label counts for its cell of four pixels."""
    few = labels[:, 1::2, 1::2]
    summed = F.cross_entropy(logits, few, ignore_index=255, reduction="sum")
    return 4 * summed / (labels != 255).sum()


@dataclass
class Outcome:
    """Outputs that are an object with the loss."""

    loss: Tensor


class Wrapped(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor) -> Any:
        return self.function(logits)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets)


def without_targets(outputs: Tensor, _: object) -> Tensor:
    return outputs.square().mean()
