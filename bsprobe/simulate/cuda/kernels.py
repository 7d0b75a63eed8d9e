"""CUDA's choice of kernels on CPU tensors, and the dtypes of their results."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch._prims_common import suggest_memory_format
from torch.library import Library

from bsprobe.simulate.cuda.attention import attention
from bsprobe.simulate.cuda.autocast import Kernel, autocast_kernels, is_half
from bsprobe.simulate.cuda.composites import COMPOSITES
from bsprobe.simulate.cuda.older import older_kernels
from bsprobe.simulate.versions import INSTALLED, Version

aten = torch.ops.aten
_INT32_MAX = 2**31 - 1
_CUDNN_LSTM = 2
"""`cudnnRNNMode_t`."""
_KEPT_BY_LSTM = 5
"""Vectors of the hidden size that an LSTM's backward pass needs per step, image, layer and
direction: the input, forget, cell and output gates and the cell state."""
_OVERRIDE: dict[str, Any] = (
    {"allow_override": True} if "allow_override" in signature(Library.impl).parameters else {}
)
"""Allows `cuda_dispatch` to be nested: two libraries override one kernel. PyTorch has the argument
since 2.8 (pytorch/pytorch#150806); it is the default since pytorch/pytorch#182293."""


@contextmanager
def cuda_dispatch(version: Version = INSTALLED) -> Iterator[None]:
    """Apply CUDA's casts and choice of kernels to CPU tensors, in the whole process.

    Autocast must also be enabled for "cpu", with `torch.autocast`.
    """
    library = Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            # Older versions warn once that a kernel is overridden.
            warnings.filterwarnings("ignore", "Warning only once for all operators")
            for name, kernel in autocast_kernels(version):
                library.impl(name, kernel, "AutocastCPU", **_OVERRIDE)
            chosen = _CHOICES | dict(COMPOSITES) | older_kernels(version)
            for name, kernel in chosen.items():
                library.impl(name, kernel, "AutogradCPU", **_OVERRIDE)
            library.impl("_cudnn_rnn_backward", _lstm_backward, "Meta", **_OVERRIDE)
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
    """Run cuDNN's batch norm if CUDA does (ATen/native/Normalization.cpp), else ATen's."""
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
        # PyTorch copies a non-dense view, such as a slice of channels, and saves the copy.
        x = x.contiguous(memory_format=suggest_memory_format(x))
        out = aten.cudnn_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
        return (*out, 1)
    reserve = torch.empty(0, dtype=torch.uint8, device=x.device)
    out = aten.native_batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
    return (*out, reserve, 0)


def _dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:  # noqa: FBT001 - as above
    """Run CUDA's fused dropout, which saves a byte mask (ATen/native/Dropout.cpp)."""
    if p == 0 or not train or x.numel() == 0:
        return x
    if p == 1:
        return x.mul(torch.zeros((), dtype=x.dtype))
    out: torch.Tensor = aten.native_dropout(x, p, train)[0]
    return out


def _widening(kernel: Kernel) -> Kernel:
    """Make a softmax that reads fp16 and writes fp32 in one kernel (ATen/native/SoftMax.cpp).

    bfloat16 is cast first, as all dtypes are on the CPU.
    """

    def run(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        if x.dtype is torch.float16 and dtype is torch.float32:
            return kernel(x, dim, True)  # noqa: FBT003 - PyTorch's signature, here and below
        return kernel(x if dtype is None else x.to(dtype), dim, False)  # noqa: FBT003

    return run


def _lstm(  # noqa: PLR0913, PLR0917 - PyTorch's signature
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    has_biases: bool,  # noqa: FBT001 - PyTorch's signature, here and below
    layers: int,
    dropout: float,
    train: bool,  # noqa: FBT001
    bidirectional: bool,  # noqa: FBT001
    batch_first: bool,  # noqa: FBT001
) -> tuple[torch.Tensor, ...]:
    """Run cuDNN's LSTM (`lstm` in ATen/native/RNN.cpp, `_cudnn_impl` in cudnn/RNN.cpp).

    Autocast casts its tensors and keeps one flat copy of the weights (cudnn/AutocastRNN.cpp); here
    each weight has its own copy. GRUs and plain RNNs run as on the CPU.
    """
    hidden, cell = hx
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, hidden, cell, *weights = (each.to(dtype) for each in (x, hidden, cell, *weights))
    out: tuple[torch.Tensor, ...] = aten._cudnn_rnn(  # noqa: SLF001 - its name
        x,
        weights,
        4 if has_biases else 2,
        x.new_empty(0),
        hidden,
        cell,
        _CUDNN_LSTM,
        cell.shape[2],
        0 if cell.shape == hidden.shape else hidden.shape[2],  # its projection
        layers,
        batch_first,
        dropout,
        train,
        bidirectional,
        [],
        None,
    )
    return out[:3]


def _lstm_backward(x: torch.Tensor, weights: Sequence[torch.Tensor], *rest: Any) -> tuple[Any, ...]:
    """Make the results of `_cudnn_rnn_backward`, for which PyTorch has no fake kernel.

    The weights' gradients are views of one tensor (`_cudnn_rnn_backward_weight`, cudnn/RNN.cpp).
    """
    hidden, cell = rest[2:4]
    flat = x.new_empty(sum(weight.numel() for weight in weights))
    parts = flat.split([weight.numel() for weight in weights])
    gradients = [part.view(like.shape) for part, like in zip(parts, weights, strict=True)]
    return torch.empty_like(x), torch.empty_like(hidden), torch.empty_like(cell), gradients


_CHOICES: dict[str, Kernel] = {
    "_batch_norm_impl_index": _batch_norm,
    "dropout": _dropout,
    "softmax.int": _widening(aten._softmax),  # noqa: SLF001 - its name
    "log_softmax.int": _widening(aten._log_softmax),  # noqa: SLF001 - its name
    "lstm.input": _lstm,
    "scaled_dot_product_attention": attention,
}


_HALF_INPUT_FP32_STATISTICS = (
    aten.cudnn_batch_norm.default,
    aten.native_batch_norm.default,
    aten.native_layer_norm.default,
)
"""Operators whose mean and variance CUDA stores in fp32 for half-precision inputs
(`toAccumulateType` in Normalization.cu and layer_norm_kernel.cu; cuDNN requires fp32)."""


WRITES_INTO: dict[Kernel, Kernel] = {
    aten.index_put.default: aten.index_put_.default,
    aten.index_add.default: aten.index_add_.default,
    aten.masked_scatter.default: aten.masked_scatter_.default,
    aten.put.default: aten.put_.default,
    aten.scatter.src: aten.scatter_.src,
    aten.scatter_add.default: aten.scatter_add_.default,
}
"""Out-of-place operators that a trace sees, and the in-place operators that run on real tensors.

Backward passes fill a new tensor of zeros in place, unless a tensor is of a subclass
(`areAnyTensorSubclassLike` in `index_backward`, `gather_backward`,
`value_selecting_reduction_backward` and similar functions,
torch/csrc/autograd/FunctionsManual.cpp)."""
ZEROS = ("new_zeros", "zeros", "zeros_like")
"""Operators that create the zeros for `WRITES_INTO`."""


def as_on_cuda(operator: Kernel, args: tuple[Any, ...], out: Any) -> Any:
    """Convert an operator's outputs to the dtypes and sizes that they have on CUDA.

    Args:
        operator: The operator that was called.
        args: Its positional arguments.
        out: Its outputs on CPU tensors.
    """
    if operator is aten._cudnn_rnn.default:  # noqa: SLF001 - its name
        reserve = torch.empty(_lstm_reserve_bytes(args, out[0]), dtype=torch.uint8)
        return (*out[:3], reserve, out[4])
    if operator not in _HALF_INPUT_FP32_STATISTICS or not is_half(args[0]):
        return out
    mean, deviation = (each.to(torch.float32) for each in out[1:3])
    return (out[0], mean, deviation, *out[3:])


def _lstm_reserve_bytes(args: tuple[Any, ...], output: torch.Tensor) -> int:
    """Lower bound of the bytes that cuDNN keeps for an LSTM's backward pass.

    The size is not documented, and `cudnnGetRNNTempSpaceSizes` needs a handle and so a GPU. The
    bound is the data that the backward pass needs (`_KEPT_BY_LSTM`). The workspace within a call is
    not documented either and is left out.
    """
    hidden_size, layers, train, bidirectional = args[7], args[9], args[12], args[13]
    if not train:
        return 0
    steps = output.shape[0] * output.shape[1]
    directions = 1 + bidirectional
    vectors = _KEPT_BY_LSTM * steps * layers * directions
    size: int = vectors * hidden_size * output.element_size()
    return size
