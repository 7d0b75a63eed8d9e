"""Inputs that older versions of PyTorch keep for a backward pass that does not read them."""

from typing import Any, Final

import torch

from bsprobe.simulate.trace.fake_kernels import storage_of
from bsprobe.simulate.versions import Change, Version, has

_aten = torch.ops.aten
_FORWARD: Final = (_aten._softmax.default, _aten._log_softmax.default)  # noqa: SLF001 - no public names
_BACKWARD: Final = (
    _aten._softmax_backward_data.default,  # noqa: SLF001 - as above
    _aten._log_softmax_backward_data.default,  # noqa: SLF001
)
"""Operators of the backward passes; their second argument is the forward result."""


class KeptInputs:
    """Keeps the storages of inputs alive as long as a version of PyTorch does.

    Args:
        version: The PyTorch version to simulate.
    """

    def __init__(self, version: Version) -> None:
        self._keeps_softmax = not has(version, Change.INPUT_OF_SOFTMAX_FREED)
        self._kept: dict[int, torch.UntypedStorage] = {}

    def note(self, operator: Any, args: tuple[Any, ...], out: Any) -> None:
        """Keep the input of an operator that has run, or release it.

        Args:
            operator: The operator.
            args: Its positional arguments.
            out: Its output.
        """
        if not self._keeps_softmax:
            return
        if operator in _FORWARD:
            if torch.is_grad_enabled() and args[0].requires_grad:
                self._kept[storage_of(out)] = args[0].untyped_storage()
        elif operator in _BACKWARD:
            self._kept.pop(storage_of(args[1]), None)

    def forget(self, storage: int) -> None:
        """Release the input that is kept for the result in a freed storage."""
        self._kept.pop(storage, None)
