"""Losses over an effective batch: cross-entropy of its valid pixels or images, or your own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.errors import UsageError
from bsprobe.records.variants import LossAt
from bsprobe.records.workload import Problem
from bsprobe.training.outputs import auxiliary_of, logits_of, loss_in

_FLAT = 2
"""Sides of an image."""
IGNORE = 255
"""The Cityscapes train id of everything that is not evaluated."""
AUXILIARY_WEIGHT = 0.5
"""As in torchvision's segmentation reference training."""


def valid_pixels(*labels: torch.Tensor) -> torch.Tensor:
    """The number of pixels of some micro-batches that count, together, as a scalar tensor.

    At least one, so that nothing is divided by zero where all are ignored.
    """
    counts = [(each != IGNORE).sum() for each in labels]
    return torch.stack(counts).sum().clamp(min=1)


def segmentation_loss(
    outputs: Any,
    labels: torch.Tensor,
    valid: torch.Tensor,
    at: LossAt = LossAt.LABELS,
) -> torch.Tensor:
    """Sum of the pixels' cross-entropies over the valid pixels of the *effective* batch.

    The mean over each micro-batch, averaged, would weigh pixels differently wherever micro-batches
    hold different numbers of valid ones, and is NaN where one holds none.

    Args:
        outputs: Logits (N, classes, h, w), or what `logits_of` finds them in, such as
            torchvision's dict with "out" and perhaps "aux". A single logit is told from zero.
        labels: Train ids (N, H, W), int64, 255 where ignored. Volumes have a dimension more.
        valid: The number of valid pixels in the effective batch.
        at: Where the two are compared. At the logits' size each logit counts for all the pixels
            that it stands for, so that the loss stays a mean over pixels of the same scale.

    Returns:
        A scalar; over the micro-batches of an update these add up to the mean loss.
    """
    loss = _cross_entropy(logits_of(outputs), labels, at)
    if (auxiliary := auxiliary_of(outputs)) is not None:
        loss = loss + AUXILIARY_WEIGHT * _cross_entropy(auxiliary, labels, at)
    return loss / valid


def classification_loss(
    outputs: Any, labels: torch.Tensor, images: torch.Tensor | int
) -> torch.Tensor:
    """Sum of the images' cross-entropies over the number of images in the *effective* batch.

    Args:
        outputs: Logits (N, classes), or what `logits_of` finds them in.
        labels: Classes (N,), int64; none is ignored.
        images: The number of images in the effective batch.

    Returns:
        A scalar; over the micro-batches of an update these add up to the mean loss.
    """
    logits = logits_of(outputs)
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels, reduction="sum") / images
    return _binary(logits, labels) / images


class Loss(Protocol):
    """A loss whose parts, one for each micro-batch, add up to that of the effective batch."""

    def counted(self, targets: Sequence[Any]) -> Any:
        """The divisor of each part, from the targets of all micro-batches."""

    def __call__(self, outputs: Any, targets: Any, count: Any) -> torch.Tensor:
        """The part of one micro-batch, a scalar; `count` is what `counted` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Ours: of pixels or of images."""

    problem: Problem
    at: LossAt = LossAt.LABELS
    classes: int | None = None
    """The classes of the labels, where known: fewer logits could not tell them apart."""

    def counted(self, targets: Sequence[torch.Tensor]) -> torch.Tensor:
        """The valid pixels of all micro-batches, or their images."""
        if self.problem is Problem.SEGMENTATION:
            return valid_pixels(*targets)
        return torch.full((), sum(len(each) for each in targets), device=targets[0].device)

    def __call__(self, outputs: Any, targets: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch, over all that counts in the effective batch.

        Raises:
            UsageError: The network tells fewer classes apart than there are. On a GPU that would
                be an assertion in a kernel, and nothing at all in a prediction.
        """
        if not isinstance(logits_of(outputs), torch.Tensor):
            raise _without_logits(outputs)
        for logits in (logits_of(outputs), auxiliary_of(outputs)):
            if self.classes is not None and _channels(logits) < self.classes:
                raise UsageError(
                    f"the network makes {_channels(logits)} logits, and there are {self.classes} "
                    "classes",
                    hint="let the network have as many, or give --model-arg num_classes=N",
                )
        if self.problem is Problem.SEGMENTATION:
            return segmentation_loss(outputs, targets, count, self.at)
        return classification_loss(outputs, targets, count)


def _without_logits(outputs: Any) -> UsageError:
    """The error for outputs that nothing is known of."""
    parts = f" of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    return UsageError(
        f"the network returns a {type(outputs).__name__}{parts}, in which no logits are found",
        hint="let it return them, alone, first, or as 'logits'; or name a loss of yours: "
        "--loss FILE.py:FUNCTION, of outputs and targets",
    )


def _channels(logits: Any) -> float:
    """The number of classes that logits tell apart; infinite without such a dimension."""
    is_logits = isinstance(logits, torch.Tensor) and logits.dim() > 1
    return logits.shape[1] if is_logits else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLoss:
    """Yours: the mean over the micro-batches of what it returns."""

    function: Callable[[Any, Any], torch.Tensor]

    def counted(self, targets: Sequence[Any]) -> int:
        """The number of micro-batches."""
        return len(targets)

    def __call__(self, outputs: Any, targets: Any, count: int) -> torch.Tensor:
        """The result of your function, over the number of micro-batches."""
        return self.function(outputs, targets) / count


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLoss:
    """The loss that the network returns, else the cross-entropy of its logits.

    Each micro-batch counts alike, as in a loop that divides by the accumulation steps.
    """

    def counted(self, targets: Sequence[Any]) -> int:
        """The number of micro-batches."""
        return len(targets)

    def __call__(self, outputs: Any, targets: Any, count: int) -> torch.Tensor:
        """The loss of a micro-batch, over the number of micro-batches.

        Raises:
            UsageError: The network returned no loss, and nothing that one can be computed from.
        """
        if (found := loss_in(outputs)) is not None:
            return found / count
        logits = logits_of(outputs)
        if not (isinstance(logits, torch.Tensor) and isinstance(targets, torch.Tensor)):
            raise UsageError(
                f"no loss can be computed from outputs of type {type(outputs).__name__} and "
                f"targets of type {type(targets).__name__}",
                hint="name a loss of yours: --loss FILE.py:FUNCTION, of outputs and targets",
            )
        if targets.dim() == 1:
            return classification_loss(logits, targets, len(targets)) / count
        # Many data sets keep the labels of volumes and masks in one channel.
        labels = targets.squeeze(1) if targets.dim() == logits.dim() else targets
        labels = labels.long()
        return segmentation_loss(logits, labels, valid_pixels(labels)) / count


def upsample(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bring logits (N, classes, h, w) bilinearly to (height, width), where they are not already.

    Those of volumes (N, classes, d, h, w) are brought to (slices, height, width), trilinearly.
    """
    if logits.shape[2:] == tuple(size):
        return logits
    mode = "bilinear" if len(size) == _FLAT else "trilinear"
    return F.interpolate(logits, size=tuple(size), mode=mode, align_corners=False)


def thin_out(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Labels (N, H, W) at (height, width): of each cell of a grid the one in its middle.

    Those of volumes have a dimension more.
    """
    grid: list[torch.Tensor] = []
    for count, whole in zip(reversed(size), reversed(labels.shape[1:]), strict=True):
        middles = ((torch.arange(count, device=labels.device) + 0.5) * (whole / count)).long()
        grid.insert(0, middles.reshape(-1, *[1] * len(grid)))
    # At once: no labels of a size between are ever there.
    places: tuple[slice | torch.Tensor, ...] = (slice(None), *grid)
    return labels[places]


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, at: LossAt) -> torch.Tensor:
    if at is LossAt.LOGITS:
        thinned = thin_out(labels, logits.shape[2:])
        return _summed(logits, thinned) * (labels[0].numel() / thinned[0].numel())
    return _summed(upsample(logits, labels.shape[1:]), labels)


def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over all that is not ignored; a single logit tells class 1 from all others."""
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return _binary(logits, labels, (labels != IGNORE).to(logits.dtype))


def _binary(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    wanted = (labels == 1).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(
        logits.squeeze(1), wanted, weight=weights, reduction="sum"
    )
