"""Logits and losses in the outputs of networks."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch

from bsprobe.records.batch_forms import LossIs

_LOGITS = ("out", "logits")
"""Their names in torchvision and in transformers."""
_LOSS = "loss"


def logits_of(outputs: Any) -> Any:
    """The main logits in the outputs of a network.

    Args:
        outputs: A tensor; a mapping or an object with `out` or `logits`; a tuple or list, whose
            first element is used.

    Returns:
        The logits, or the outputs themselves if no logits are found in them.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    for name in _LOGITS:
        if (found := _part(outputs, name)) is not None:
            return found
    if isinstance(outputs, tuple | list) and outputs:
        return logits_of(outputs[0])
    return outputs


def auxiliary_of(outputs: Any) -> torch.Tensor | None:
    """The logits of torchvision's auxiliary classifier; None if there are none."""
    found = outputs.get("aux") if isinstance(outputs, Mapping) else None
    return found if isinstance(found, torch.Tensor) else None


def loss_place(outputs: Any) -> LossIs | None:
    """The place of the loss, a scalar, in the outputs of a network; None if there is none."""
    is_mapping = isinstance(outputs, Mapping)
    if _is_scalar(_part(outputs, _LOSS)):
        return LossIs.ENTRY if is_mapping else LossIs.ATTRIBUTE
    if is_mapping and outputs and all(map(_is_scalar, outputs.values())):
        return LossIs.SUM
    if isinstance(outputs, tuple | list) and outputs and _is_scalar(outputs[0]):
        return LossIs.FIRST
    return None


def loss_in(outputs: Any) -> torch.Tensor | None:
    """The loss that a network returns, a scalar; None if it returns none.

    It is `loss` of a mapping or an object (transformers), the first element of a tuple
    (transformers with `return_dict=False`), or the sum of a mapping of losses (torchvision's
    detection networks).
    """
    place = loss_place(outputs)
    if place is None:
        return None
    if place is LossIs.SUM:
        return torch.stack([loss.float() for loss in outputs.values()]).sum()
    found: torch.Tensor = outputs[0] if place is LossIs.FIRST else _part(outputs, _LOSS)
    return found


def returns_loss(outputs: Any) -> bool:
    """Return whether `loss_in` finds a loss; runs no operator."""
    return any(
        (
            _is_scalar(_part(outputs, _LOSS)),
            isinstance(outputs, Mapping) and outputs and all(map(_is_scalar, outputs.values())),
            isinstance(outputs, tuple | list) and outputs and _is_scalar(outputs[0]),
        )
    )


def _part(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return None if isinstance(outputs, torch.Tensor) else getattr(outputs, name, None)


def _is_scalar(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
