"""Losses over an effective batch: cross-entropy of pixels or images, the network's, the user's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.batch_forms import LossIs
from bsprobe.records.errors import UsageError
from bsprobe.records.variants import LossAt
from bsprobe.records.workload import Problem
from bsprobe.training.outputs import auxiliary_of, logits_of, loss_in, loss_place

_FLAT = 2
"""Spatial dimensions of an image."""
IGNORE = 255
"""The train id of ignored pixels in Cityscapes."""
AUXILIARY_WEIGHT = 0.5
"""The weight of the auxiliary loss in torchvision's segmentation reference training."""


def valid_pixels(*labels: torch.Tensor) -> torch.Tensor:
    """The number of valid pixels of some micro-batches together, as a scalar tensor.

    It is at least one, because losses are divided by it.
    """
    counts = [(each != IGNORE).sum() for each in labels]
    return torch.stack(counts).sum().clamp(min=1)


def segmentation_loss(
    outputs: Any,
    labels: torch.Tensor,
    valid: torch.Tensor,
    at: LossAt = LossAt.LABELS,
) -> torch.Tensor:
    """The sum of the pixels' cross-entropies over the valid pixels of the *effective* batch.

    An average of the micro-batches' means would weigh pixels differently if micro-batches differ
    in their number of valid pixels, and is NaN if one has none.

    Args:
        outputs: Logits (N, classes, h, w), or outputs that `logits_of` finds them in, such as
            torchvision's dict with "out" and maybe "aux". A single logit is of class 1 against
            all others.
        labels: Train ids (N, H, W), int64, 255 for ignored pixels. Volumes have one more dimension.
        valid: The number of valid pixels in the effective batch.
        at: The size at which the two are compared. At the size of the logits the loss is scaled
            up to the number of pixels of the labels.

    Returns:
        A scalar. The losses of the micro-batches of an update add up to the mean loss.
    """
    loss = _cross_entropy(logits_of(outputs), labels, at)
    if (auxiliary := auxiliary_of(outputs)) is not None:
        loss = loss + AUXILIARY_WEIGHT * _cross_entropy(auxiliary, labels, at)
    return loss / valid


def classification_loss(
    outputs: Any, labels: torch.Tensor, images: torch.Tensor | int
) -> torch.Tensor:
    """The sum of the images' cross-entropies over the number of images in the *effective* batch.

    Args:
        outputs: Logits (N, classes), or outputs that `logits_of` finds them in.
        labels: Classes (N,), int64; none is ignored.
        images: The number of images in the effective batch.

    Returns:
        A scalar. The losses of the micro-batches of an update add up to the mean loss.
    """
    logits = logits_of(outputs)
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels, reduction="sum") / images
    return _binary(logits, labels) / images


class Loss(Protocol):
    """A loss whose parts, one for each micro-batch, add up to the loss of the effective batch."""

    def counted(self, targets: Sequence[Any]) -> Any:
        """The divisor of each part, from the targets of all micro-batches."""

    def __call__(self, outputs: Any, targets: Any, count: Any) -> torch.Tensor:
        """The part of one micro-batch, a scalar; `count` is the result of `counted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy of pixels or of images."""

    problem: Problem
    at: LossAt = LossAt.LABELS
    classes: int | None = None
    """Number of classes of the labels; fewer logits are refused. None if not known."""

    def counted(self, targets: Sequence[torch.Tensor]) -> torch.Tensor:
        """The number of valid pixels, or of images, in all micro-batches."""
        if self.problem is Problem.SEGMENTATION:
            return valid_pixels(*targets)
        return torch.full((), sum(len(each) for each in targets), device=targets[0].device)

    def __call__(self, outputs: Any, targets: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The summed loss of a micro-batch over the count of the effective batch.

        Args:
            outputs: The outputs of the network.
            targets: The labels of the micro-batch.
            count: The result of `counted`.

        Raises:
            UsageError: The outputs hold no logits, or fewer than there are classes. On a GPU too
                few logits fail an assertion in a kernel, and in a prediction they raise nothing.
        """
        if not isinstance(logits_of(outputs), torch.Tensor):
            raise _without_logits(outputs)
        for logits in (logits_of(outputs), auxiliary_of(outputs)):
            if self.classes is not None and _channels(logits) < self.classes:
                raise UsageError(
                    f"the network makes {_channels(logits)} logits for {self.classes} classes",
                    hint="change the network, or give --model-arg num_classes=N",
                )
        if self.problem is Problem.SEGMENTATION:
            return segmentation_loss(outputs, targets, count, self.at)
        return classification_loss(outputs, targets, count)


def _without_logits(outputs: Any) -> UsageError:
    """The error for outputs in which no logits are found."""
    parts = f" of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    return UsageError(
        f"no logits found: the network returns a {type(outputs).__name__}{parts}",
        hint="return the logits alone, as the first element, or under 'logits'; or give a loss "
        "of outputs and targets: --loss FILE.py:FUNCTION",
    )


def _channels(logits: Any) -> float:
    """The size of the class dimension of logits; infinite if they have none."""
    is_logits = isinstance(logits, torch.Tensor) and logits.dim() > 1
    return logits.shape[1] if is_logits else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLoss:
    """A user-supplied loss: the mean of its results over the micro-batches.

    In a trial this is the loss of the effective batch if the loss is a mean over images or pixels:
    its micro-batches are one batch, repeated. In a training they differ, so the snippet weights
    them with their numbers of valid targets. The memory is the same.
    """

    function: Callable[[Any, Any], torch.Tensor]

    def counted(self, targets: Sequence[Any]) -> int:
        """The number of micro-batches."""
        return len(targets)

    def __call__(self, outputs: Any, targets: Any, count: int) -> torch.Tensor:
        """The result of the user's function, over the number of micro-batches.

        Args:
            outputs: The outputs of the network.
            targets: The targets of the micro-batch.
            count: The result of `counted`.
        """
        return self.function(outputs, targets) / count


@dataclass(slots=True, kw_only=True)
class NetworkLoss:
    """The loss that the network returns, else the cross-entropy of its logits.

    Each micro-batch has the same weight, as with `OwnLoss`.
    """

    place: LossIs | None = None
    """The place of the loss in the last outputs; None before the first."""

    def counted(self, targets: Sequence[Any]) -> int:
        """The number of micro-batches."""
        return len(targets)

    def __call__(self, outputs: Any, targets: Any, count: int) -> torch.Tensor:
        """The loss of a micro-batch, over the number of micro-batches.

        Args:
            outputs: The outputs of the network.
            targets: The targets of the micro-batch.
            count: The result of `counted`.

        Raises:
            UsageError: The network returns no loss, and none can be computed from its outputs.
        """
        self.place = loss_place(outputs) or LossIs.OF_LOGITS
        if (found := loss_in(outputs)) is not None:
            return found / count
        logits = logits_of(outputs)
        if not (isinstance(logits, torch.Tensor) and isinstance(targets, torch.Tensor)):
            raise UsageError(
                f"no loss can be computed from outputs of type {type(outputs).__name__} and "
                f"targets of type {type(targets).__name__}",
                hint="give a loss of outputs and targets: --loss FILE.py:FUNCTION",
            )
        if targets.dim() == 1:
            return classification_loss(logits, targets, len(targets)) / count
        # Many data sets give the labels of volumes and masks a channel dimension.
        labels = targets.squeeze(1) if targets.dim() == logits.dim() else targets
        labels = labels.long()
        return segmentation_loss(logits, labels, valid_pixels(labels)) / count


def upsample(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize logits (N, classes, h, w) bilinearly to (height, width), if they differ.

    Logits of volumes (N, classes, d, h, w) are resized trilinearly to (slices, height, width).
    """
    if logits.shape[2:] == tuple(size):
        return logits
    mode = "bilinear" if len(size) == _FLAT else "trilinear"
    return F.interpolate(logits, size=tuple(size), mode=mode, align_corners=False)


def thin_out(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Reduce labels (N, H, W) to (height, width): the label in the middle of each grid cell.

    Labels of volumes have one more dimension.
    """
    grid: list[torch.Tensor] = []
    for count, whole in zip(reversed(size), reversed(labels.shape[1:]), strict=True):
        middles = ((torch.arange(count, device=labels.device) + 0.5) * (whole / count)).long()
        grid.insert(0, middles.reshape(-1, *[1] * len(grid)))
    # In one indexing, which allocates no intermediate labels.
    places: tuple[slice | torch.Tensor, ...] = (slice(None), *grid)
    return labels[places]


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, at: LossAt) -> torch.Tensor:
    if at is LossAt.LOGITS:
        thinned = thin_out(labels, logits.shape[2:])
        return _summed(logits, thinned) * (labels[0].numel() / thinned[0].numel())
    return _summed(upsample(logits, labels.shape[1:]), labels)


def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over the valid pixels; a single logit is of class 1 against all others."""
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
