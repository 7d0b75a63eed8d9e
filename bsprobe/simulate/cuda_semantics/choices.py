"""CUDA's choice of kernels on CPU tensors, and the types that these kernels answer in."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.library import Library

from bsprobe.simulate.cuda_semantics.autocast import Kernel, autocast_kernels, is_half

aten = torch.ops.aten
_INT32_MAX = 2**31 - 1


@contextmanager
def cuda_dispatch() -> Iterator[None]:
    """Let operators on CPU tensors be cast and chosen as on CUDA; for the whole process.

    Autocast itself must be enabled for "cpu", which `torch.autocast` does.
    """
    library = Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            # Older versions say once that a kernel takes the place of another.
            warnings.filterwarnings("ignore", "Warning only once for all operators")
            for name, kernel in autocast_kernels():
                library.impl(name, kernel, "AutocastCPU")
            for name, kernel in _CHOICES.items():
                library.impl(name, kernel, "AutogradCPU")
        yield
    finally:
        library._destroy()  # noqa: SLF001 - no public way to end an override


def _batch_norm(  # noqa: PLR0913, PLR0917 - PyTorch's signature
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,  # noqa: FBT001 - PyTorch's signature
    momentum: float,
    eps: float,
    cudnn_enabled: bool,  # noqa: FBT001 - as above
) -> tuple[Any, ...]:
    """Take cuDNN's batch norm where CUDA would (ATen/native/Normalization.cpp), else ATen's."""
    is_served = (
        cudnn_enabled
        and weight is not None
        and bias is not None
        and x.dtype is not torch.bfloat16
        and weight.dtype is not torch.bfloat16
        and (x.dtype is not torch.float16 or weight.dtype is torch.float32)
        and (mean is None) == (variance is None)
        and (mean is not None or training)
        and x.dim() >= 3  # noqa: PLR2004 - PyTorch's constants, here and below
        and x.shape[0] <= (880801 if training else 65535)
        and eps >= 1e-5  # noqa: PLR2004 - CUDNN_BN_MIN_EPSILON as ATen compares it
        and x.numel() < _INT32_MAX
    )
    if is_served:
        out = aten.cudnn_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
        return (*out, 1)
    reserve = torch.empty(0, dtype=torch.uint8, device=x.device)
    out = aten.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
    return (*out, reserve, 0)


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: FBT001 - as above
    """CUDA's fused kernel, which keeps a mask of bytes (ATen/native/Dropout.cpp)."""
    if p == 0 or not train or x.numel() == 0:
        return x
    if p == 1:
        return x.mul(torch.zeros((), dtype=x.dtype))
    out: torch.Tensor = aten.native_dropout(x, p, train)[0]
    return out


_CHOICES: dict[str, Kernel] = {"_batch_norm_impl_index": _batch_norm, "dropout": _dropout}

_HALF_INPUT_FP32_STATISTICS = (
    aten.cudnn_batch_norm.default,
    aten.native_batch_norm.default,
    aten.native_layer_norm.default,
)
"""CUDA keeps mean and variance of half-precision inputs in the accumulation type
(`toAccumulateType` in Normalization.cu and layer_norm_kernel.cu; cuDNN wants fp32)."""


def as_on_cuda(operator: Kernel, args: tuple[Any, ...], out: Any) -> Any:
    """An operator's outputs with the types they have on CUDA."""
    if operator not in _HALF_INPUT_FP32_STATISTICS or not is_half(args[0]):
        return out
    mean, deviation = (each.to(torch.float32) for each in out[1:3])
    return (out[0], mean, deviation, *out[3:])
