"""Kernels that save other tensors for the backward pass, as older versions of PyTorch did."""

from typing import Any, Final

import torch

from bsprobe.simulate.cuda.autocast import Kernel
from bsprobe.simulate.versions import Change, Version, until

_aten = torch.ops.aten


class _HardtanhInPlace(torch.autograd.Function):
    """`hardtanh_` that saves only its result for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, least: float, most: float) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - no public name
            _aten.hardtanh_.default(x, least, most)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.bounds = least, most
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (result,) = ctx.saved_tensors
        return _aten.hardtanh_backward.default(gradients[0], result, *ctx.bounds), None, None


def _hardtanh_in_place(x: torch.Tensor, least: float = -1, most: float = 1) -> Any:
    return _HardtanhInPlace.apply(x, least, most)


class _Relu(torch.autograd.Function):
    """`relu` that saves its input, not its result, for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 - as above
            out: torch.Tensor = _aten.relu.default(x)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _aten.threshold_backward.default(gradients[0], x, 0)


_UNTIL: Final[dict[Change, dict[str, Kernel]]] = {
    Change.INPUT_OF_HARDTANH_COPIED: {"hardtanh_": _hardtanh_in_place},
    Change.INPUT_OF_RELU_FREED: {"relu": _Relu.apply},
}


def older_kernels(version: Version) -> dict[str, Kernel]:
    """Kernels of an older version that differ from the installed PyTorch, by operator name."""
    return until(version, _UNTIL)
