"""The outputs of networks: the logits among them, and the loss that some compute themselves."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch

_LOGITS = ("out", "logits")
"""torchvision's name for them, and transformers'."""
_LOSS = "loss"


def logits_of(outputs: Any) -> Any:
    """The main logits: a tensor, or the one that a mapping, an object or a tuple holds.

    Args:
        outputs: A tensor; a mapping or an object with `out` or `logits`; a tuple or list, whose
            first element is taken.

    Returns:
        The logits, or the outputs themselves where nothing of this kind is in them.
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
    """The logits of torchvision's auxiliary classifier; None where there are none."""
    found = outputs.get("aux") if isinstance(outputs, Mapping) else None
    return found if isinstance(found, torch.Tensor) else None


def loss_in(outputs: Any) -> torch.Tensor | None:
    """The loss that a network computed itself, a scalar; None where there is none.

    It is `loss` of a mapping or an object, as in transformers; the first element of a tuple, as
    transformers has it with `return_dict=False`; or the sum of a mapping of losses, as of
    torchvision's detection networks.
    """
    found = _part(outputs, _LOSS)
    if _is_scalar(found):
        return found
    if isinstance(outputs, Mapping) and outputs and all(map(_is_scalar, outputs.values())):
        return torch.stack([loss.float() for loss in outputs.values()]).sum()
    if isinstance(outputs, tuple | list) and outputs and _is_scalar(outputs[0]):
        return outputs[0]
    return None


def _part(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return None if isinstance(outputs, torch.Tensor) else getattr(outputs, name, None)


def _is_scalar(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
