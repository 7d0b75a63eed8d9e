"""User-written losses whose sizes and branches depend on the labels."""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses
from torchvision.models.detection.transform import GeneralizedRCNNTransform

IGNORED = 255
KEPT = 100


def pixel_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").view(-1)


class HardPixels(nn.Module):
    """Selects the pixels with a loss above a threshold, or a minimum number: a mask and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = -torch.log(torch.tensor(0.7)).cuda()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        fewest = labels[labels != IGNORED].numel() // 16
        losses = pixel_losses(logits, labels)
        hard = losses[losses > self.threshold]
        if hard.numel() < fewest:
            hard, _ = losses.topk(fewest)
        return hard.mean()


def hard_pixels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = HardPixels()(logits, labels)
    return loss


def hardest_by_threshold(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss that branches on a comparison of the threshold with a value."""
    losses, _ = torch.sort(pixel_losses(logits, labels), descending=True)
    return (losses[losses > 0.3] if losses[KEPT] > 0.3 else losses[:KEPT]).mean()


def a_quarter_of_the_valid(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss in which a count becomes a size."""
    count = (labels != IGNORED).sum().item()
    return pixel_losses(logits, labels).topk(int(0.25 * count)).values.mean()


def by_selected_rows(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    valid = labels != IGNORED
    return F.cross_entropy(logits.permute(0, 2, 3, 1)[valid], labels[valid])


def by_coordinates(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    image, row, column = torch.where(labels != IGNORED)
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    return F.cross_entropy(logits[image, :, row, column], labels[image, row, column])


def by_constants(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss with sums over all but the first two dimensions, in the style of MONAI."""
    dimensions = torch.arange(2, logits.dim()).tolist()
    weights = torch.from_numpy(torch.ones(2).numpy())
    scale = torch.tensor([1.0, 3.0]).max().item() * weights.sum().item()
    classes = F.one_hot(torch.zeros_like(labels), logits.shape[1]).movedim(-1, 1).float()
    probabilities = F.interpolate(logits, size=labels.shape[-2:]).softmax(1)
    return scale * (probabilities * classes).sum(dimensions).mean()


def checked(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss that raises on wrong labels: one of two branches never runs."""
    if (labels < 0).any():
        raise ValueError("negative labels")
    assert (labels <= IGNORED).all()
    return pixel_losses(logits, labels).mean()


def read_number(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = pixel_losses(logits, labels).mean()
    return loss * 2 if loss.item() > 3 else loss


def logged(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss that reads numbers for a log, like training scripts."""
    loss = pixel_losses(logits, labels).mean()
    average = 0.9 * sum([loss.item(), 2.0]) / len(labels) + round(loss.item(), 4)
    assert math.isfinite(loss.item())
    return loss if f"{average:.3f}" else loss * 2


def read_array(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return pixel_losses(logits, labels).mean() * float(labels.cpu().numpy().mean())


def waiting(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = pixel_losses(logits, labels).mean()
    while loss > 3:
        loss = loss / 2
    return loss


def by_found_classes(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = pixel_losses(logits, labels)
    total = loss.new_zeros(())
    for label in torch.unique(labels):
        total = total + (loss * (labels == label).view(-1)).mean()
    return total


def by_pixels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = pixel_losses(logits, labels).mean()
    if labels.max() > 3:
        loss = loss + 1
    if labels.min() > 0:
        loss = loss + 2
    if labels[0, 0, 0] > 0:
        loss = loss + 3
    if labels[0, 0, 1] > 0:
        loss = loss + 4
    if labels[0, 0, 2] > 0:
        loss = loss + 5
    return loss


def repeated(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    times = (labels > 0).long().view(-1)
    return pixel_losses(logits, labels).repeat_interleave(times).mean()


def put_together_again(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = pixel_losses(logits, labels)
    low, high = losses[losses < 1], losses[losses >= 1]
    return torch.cat((low, high)).view_as(labels).mean()


def in_a_library(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute a loss with torchvision's drawn image sizes."""
    transform = GeneralizedRCNNTransform(32, 64, [0.5] * 3, [0.5] * 3)
    chosen: int = transform.torch_choice([1, 2])
    return pixel_losses(logits, labels).mean() * chosen
