"""Everything in which a trace on CPU tensors differs from the same program on CUDA.

Two parts. First, which operators run: `cuda_dispatch` makes CPU tensors obey CUDA's autocast lists
and CUDA's choice of kernels while it is active. The result is held, operator by operator, to a
trace of the forward pass on fake CUDA tensors (tests/simulate/test_cuda_semantics.py). Second, what
CUDA's kernels allocate inside, where no trace can see it: `KERNELS` has a rule for each operator.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._prims_common import suggest_memory_format
from torch.library import Library, fallthrough_kernel
from torch.utils._pytree import tree_map_only

from bsprobe.simulate.convolutions import ITEM_BYTES, Convolution, Direction

aten = torch.ops.aten
Kernel = Callable[..., Any]
_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001 - no public name
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)  # noqa: SLF001 - as above
_INT32_MAX = 2**31 - 1

# Autocast. Source: ATen/autocast_mode.h, the lists AT_FORALL_*, and the CUDA block of
# autocast_mode.cpp; from 2.6 to 2.15 only rms_norm was added. Convolutions, matrix products and
# most losses are on CPU's and CUDA's lists alike: PyTorch's own kernels stay for those.

LOWER_PRECISION = (
    *("_convolution", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "addmv", "addr"),
    *("chain_matmul", "convolution", "einsum", "gru_cell", "linalg_multi_dot", "lstm_cell", "mv"),
    *("rnn_relu_cell", "rnn_tanh_cell"),
)
"""Operators that CUDA's autocast runs in half precision and the CPU's does not."""
FP32 = (
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2"),
    *("reciprocal", "rsqrt", "sinh", "tan", "softplus", "logsumexp", "renorm", "dist", "pdist"),
    *("pow.Scalar", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "cosine_similarity"),
    *("group_norm", "layer_norm", "native_layer_norm", "rms_norm"),
    *("frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
"""Operators whose arguments CUDA's autocast casts to fp32."""
FP32_OUTPUT = (
    *("softmax.int", "log_softmax.int", "cumprod", "cumsum", "prod", "prod.dim_int"),
    *("sum", "sum.dim_IntList", "linalg_vector_norm", "linalg_matrix_norm"),
    "linalg_matrix_norm.str_ord",
)
"""Operators that read half precision and write fp32, unless they are told another dtype."""
FP32_OUTPUT_OVERLOADS = {
    "norm.Scalar": "norm.ScalarOpt_dtype",
    "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype",
}
"""The same, where it takes another overload to say so."""
WIDEST = (
    *("addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler"),
    *("index_put", "tensordot", "scatter_add"),
)
"""Operators whose arguments are all cast to the widest type among them."""
_SAME_ON_BOTH = ("conv1d.padding", "conv2d.padding", "conv3d.padding")
"""On the CPU's list alone, but what they call on CUDA is on CUDA's: the casts are the same."""


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
            for name, kernel in _autocast_kernels():
                library.impl(name, kernel, "AutocastCPU")
            for name, kernel in _CHOICES.items():
                library.impl(name, kernel, "AutogradCPU")
        yield
    finally:
        library._destroy()  # noqa: SLF001 - no public way to end an override


@functools.cache
def _autocast_kernels() -> tuple[tuple[str, Kernel], ...]:
    """Names of operators, and kernels that turn the CPU's autocast into CUDA's."""
    kernels: list[tuple[str, Kernel]] = []
    policies = (
        (LOWER_PRECISION, _in_lower_precision),
        (FP32, _in_fp32),
        (FP32_OUTPUT, _with_fp32_output),
        (tuple(FP32_OUTPUT_OVERLOADS), _with_fp32_overload),
        (WIDEST, _in_widest),
    )
    for names, policy in policies:
        kernels += [(name, policy(name)) for name in names if _exists(name)]
    on_cpu_alone = operators_cast("AutocastCPU") - operators_cast("AutocastCUDA")
    kernels += [(name, fallthrough_kernel) for name in on_cpu_alone.difference(_SAME_ON_BOTH)]
    return tuple(kernels)


def operators_cast(key: str) -> frozenset[str]:
    """Names of the operators, without `aten::`, that have an autocast kernel."""
    names = torch._C._dispatch_get_all_op_names()  # noqa: SLF001 - no public name
    return frozenset(
        name.removeprefix("aten::")
        for name in names
        if name.startswith("aten::") and _has_kernel(name, key)
    )


def _exists(name: str) -> bool:
    packet, _, overload = name.partition(".")
    return hasattr(aten, packet) and hasattr(getattr(aten, packet), overload or "default")


def _operator(name: str) -> Kernel:
    packet, _, overload = name.partition(".")
    operator: Kernel = getattr(getattr(aten, packet), overload or "default")
    return operator


def _call(operator: Kernel, args: Any, kwargs: Any) -> Any:
    """Call below autocast, as its kernels do."""
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):  # noqa: SLF001 - no public name
        return operator(*args, **kwargs)


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    """Cast what autocast casts: floating-point tensors, but for double precision."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        is_eligible = tensor.is_floating_point() and tensor.dtype is not torch.float64
        return tensor.to(dtype) if is_eligible else tensor

    return tree_map_only(torch.Tensor, cast, arguments)


def _in_lower_precision(name: str) -> Kernel:
    operator = _operator(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("cpu")
        return _call(operator, _cast(args, dtype), _cast(kwargs, dtype))

    return run


def _in_fp32(name: str) -> Kernel:
    operator = _operator(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        return _call(operator, _cast(args, torch.float32), _cast(kwargs, torch.float32))

    return run


def _with_fp32_output(name: str) -> Kernel:
    operator = _operator(name)
    schema = operator._schema  # type: ignore[attr-defined] # noqa: SLF001 - as above
    place = [argument.name for argument in schema.arguments].index("dtype")

    def run(*args: Any, **kwargs: Any) -> Any:
        # Defaults are passed on where the caller names a later argument: a dtype may be there, as
        # the last of them, and be None.
        takes_dtype_by_name = len(args) <= place
        dtype = kwargs.get("dtype") if takes_dtype_by_name else args[place]
        if _is_half(args[0]) and dtype is None:
            args, kwargs = args[:place], {**kwargs, "dtype": torch.float32}
        return _call(operator, args, kwargs)

    return run


def _with_fp32_overload(name: str) -> Kernel:
    operator, wider = _operator(name), _operator(FP32_OUTPUT_OVERLOADS[name])

    def run(*args: Any, **kwargs: Any) -> Any:
        if _is_half(args[0]):
            # Defaults are not passed on to kernels; the other overload has none.
            left_out = operator._schema.arguments[len(args) :]  # type: ignore[attr-defined] # noqa: SLF001 - as above
            given = (*args, *(argument.default_value for argument in left_out))
            return _call(wider, given, {**kwargs, "dtype": torch.float32})
        return _call(operator, args, kwargs)

    return run


def _in_widest(name: str) -> Kernel:
    operator = _operator(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        widest = torch.get_autocast_dtype("cpu")

        def look(tensor: torch.Tensor) -> None:
            nonlocal widest
            if tensor.is_floating_point() and tensor.dtype is not torch.float64:
                widest = torch.promote_types(widest, tensor.dtype)

        tree_map_only(torch.Tensor, look, (args, kwargs))
        return _call(operator, _cast(args, widest), _cast(kwargs, widest))

    return run


def _is_half(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


# Choice of kernels.


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


# Types that fake kernels get wrong on the CPU.

_HALF_INPUT_FP32_STATISTICS = (
    aten.cudnn_batch_norm.default,
    aten.native_batch_norm.default,
    aten.native_layer_norm.default,
)
"""CUDA keeps mean and variance of half-precision inputs in the accumulation type
(`toAccumulateType` in Normalization.cu and layer_norm_kernel.cu; cuDNN wants fp32)."""


def as_on_cuda(operator: Kernel, args: tuple[Any, ...], out: Any) -> Any:
    """An operator's outputs with the types they have on CUDA."""
    if operator not in _HALF_INPUT_FP32_STATISTICS or not _is_half(args[0]):
        return out
    mean, deviation = (each.to(torch.float32) for each in out[1:3])
    return (out[0], mean, deviation, *out[3:])


# What kernels allocate inside.


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Memory that a kernel takes after the outputs before it, and gives back at once."""

    sizes: tuple[int, ...] = ()
    convolution: Convolution | None = None
    """Where cuDNN says how much more."""
    uses_cublas: bool = False
    """Where cuBLAS has a workspace, which lives on."""
    elements: int | None = None
    """Where the kernel counts elements in 32 bits."""


Effects = Iterator[torch.Tensor | Inside]
Rule = Callable[[tuple[Any, ...], Any], Effects]


def _convolution(args: tuple[Any, ...], out: Any) -> Effects:
    """`cudnn_convolution`: the output, dense copies of what is laid out otherwise, the workspace.

    Source: ATen/native/Convolution.cpp and cudnn/ConvShared.cpp.
    """
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    layout = _convolution_layout(x, weight)
    yield out
    yield Inside(
        sizes=_copies((x, weight), layout),
        convolution=_described(
            Direction.DATA_GRADIENT if transposed else Direction.FORWARD,
            out if transposed else x,
            weight,
            settings=(stride, padding, dilation, groups),
            layout=layout,
            is_transposed=transposed,
        ),
    )


def _convolution_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """`cudnn_convolution_backward`: the input's gradient, then the weight's, then the bias's."""
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = args
    layout = _convolution_layout(x, weight)
    grad_x, grad_weight, grad_bias = out
    settings = (stride, padding, dilation, groups)
    image = grad if transposed else x
    if grad_x is not None:
        direction = Direction.FORWARD if transposed else Direction.DATA_GRADIENT
        yield grad_x
        yield Inside(
            sizes=_copies((grad, weight), layout),
            convolution=_described(
                direction,
                image,
                weight,
                settings=settings,
                layout=layout,
                is_transposed=transposed,
            ),
        )
    if grad_weight is not None:
        yield grad_weight
        yield Inside(
            sizes=_copies((grad, x), layout),
            convolution=_described(
                Direction.WEIGHT_GRADIENT,
                image,
                weight,
                settings=settings,
                layout=layout,
                is_transposed=transposed,
            ),
        )
    if grad_bias is not None:
        yield grad_bias


def _described(
    direction: Direction,
    image: torch.Tensor,
    weight: torch.Tensor,
    *,
    settings: tuple[Any, Any, Any, int],
    layout: torch.memory_format,
    is_transposed: bool,
) -> Convolution | None:
    """The convolution as cuDNN is asked for it; None for double precision."""
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        return None
    stride, padding, dilation, groups = settings
    return Convolution(
        direction=direction,
        dtype=dtype,
        channels_last=layout is not torch.contiguous_format,
        input_size=tuple(image.shape),
        weight_size=tuple(weight.shape),
        padding=tuple(padding),
        stride=tuple(stride),
        dilation=tuple(dilation),
        groups=groups,
        is_transposed=is_transposed,
    )


def _convolution_layout(x: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """`cudnn_conv_suggest_memory_format` (ATen/native/ConvUtils.h): channels last if either is."""
    layouts = {suggest_memory_format(x), suggest_memory_format(weight)}
    return next((each for each in _CHANNELS_LAST if each in layouts), torch.contiguous_format)


def _copies(tensors: Iterable[torch.Tensor], layout: torch.memory_format) -> tuple[int, ...]:
    """Bytes of the dense copies that `contiguous(layout)` makes of those that are not so."""
    return tuple(
        tensor.numel() * tensor.element_size()
        for tensor in tensors
        if not tensor.is_contiguous(memory_format=layout)
    )


def _group_norm(args: tuple[Any, ...], out: Any) -> Effects:
    """Two (N, C) factors in fp32 (`GroupNormKernelImplInternal`, cuda/group_norm_kernel.cu)."""
    _, _, _, n, c, *_ = args
    yield from out
    yield Inside(sizes=(4 * n * c, 4 * n * c))


def _group_norm_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Sums and factors, (N, C) and (N, groups), in fp32 (`GroupNormBackwardKernelImplInternal`)."""
    n, c, groups = args[5], args[6], args[8]
    yield from (tensor for tensor in out if tensor is not None)
    by_channel, by_group = 4 * n * c, 4 * n * groups
    yield Inside(sizes=(by_channel, by_channel, by_group, by_group, by_channel))


def _dropout_kernel(args: tuple[Any, ...], out: Any) -> Effects:
    """The mask comes first (`dropout_cuda`, cuda/Dropout.cu)."""
    del args
    output, mask = out
    yield mask
    yield output


def _matrix_product(args: tuple[Any, ...], out: Any) -> Effects:
    del args
    yield out
    yield Inside(uses_cublas=True)


def _dense_inputs(*which: int) -> Rule:
    """Kernels that begin with `contiguous()` of some arguments."""

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        yield from (each for each in _tensors(out))
        if sizes := _copies((args[index] for index in which), torch.contiguous_format):
            yield Inside(sizes=sizes)

    return rule


def _upsample(args: tuple[Any, ...], out: Any) -> Effects:
    """32-bit indices over the output (cuda/UpSampleBilinear2d.cu and its siblings)."""
    del args
    yield out
    yield Inside(elements=out.numel())


def _upsample_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Dense copies of both gradients, and the same 32-bit indices.

    Channels-last ones stay as they are where there are at least 4 channels
    (`upsample_bilinear2d_backward_out_cuda_template` and its nearest sibling).
    """
    grad, *_ = args
    is_channels_last = (
        grad.shape[1] >= 4  # noqa: PLR2004 - PyTorch's heuristic
        and suggest_memory_format(grad) is torch.channels_last
        and out.is_contiguous(memory_format=torch.channels_last)
    )
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    yield out
    yield Inside(sizes=_copies((out, grad), layout), elements=grad.numel())


def _bicubic_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the output's gradient (cuda/UpSampleBicubic2d.cu)."""
    yield out
    yield Inside(sizes=_copies(args[:1], torch.contiguous_format), elements=args[0].numel())


def _tensors(out: Any) -> Iterator[torch.Tensor]:
    """The tensors among an operator's results, in their order."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, tuple | list):
        yield from (each for each in out if isinstance(each, torch.Tensor))


def effects(operator: Kernel, args: tuple[Any, ...], out: Any) -> Effects:
    """What an operator allocates on CUDA, in order: its outputs, and what it takes inside."""
    rule = KERNELS.get(operator)
    return _tensors(out) if rule is None else rule(args, out)


_CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)
KERNELS: dict[Kernel, Rule] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.native_dropout.default: _dropout_kernel,
    aten.mm.default: _matrix_product,
    aten.addmm.default: _matrix_product,
    aten.bmm.default: _matrix_product,
    aten.baddbmm.default: _matrix_product,
    # ATen/native/cuda: SoftMax.cu, NLLLoss2d.cu.
    aten._log_softmax.default: _dense_inputs(0),  # noqa: SLF001 - its name
    aten._log_softmax_backward_data.default: _dense_inputs(0, 1),  # noqa: SLF001 - its name
    aten.nll_loss2d_forward.default: _dense_inputs(0, 1),
    aten.nll_loss2d_backward.default: _dense_inputs(2),
    aten.upsample_bilinear2d.default: _upsample,
    aten.upsample_bilinear2d_backward.default: _upsample_backward,
    aten.upsample_nearest2d.default: _upsample,
    aten.upsample_nearest2d_backward.default: _upsample_backward,
    aten.upsample_bicubic2d.default: _upsample,
    aten.upsample_bicubic2d_backward.default: _bicubic_backward,
}
