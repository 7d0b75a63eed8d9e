"""CUDA's autocast on CPU tensors: the operators that are cast, and their dtypes.

Source: the lists AT_FORALL_* in ATen/autocast_mode.h, and the CUDA block of autocast_mode.cpp. From
2.6 to 2.15 only rms_norm was added, in 2.12 (pytorch/pytorch#174824). Operators that the installed
PyTorch does not cast on CUDA are not cast here. Convolutions, matrix products and most losses are
on the lists of both CPU and CUDA and keep PyTorch's own kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.library import fallthrough_kernel
from torch.utils._pytree import tree_map_only

from bsprobe.simulate.versions import INSTALLED, Change, Version, has

Kernel = Callable[..., Any]
_aten = torch.ops.aten
_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001 - no public name
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)  # noqa: SLF001 - as above

LOWER_PRECISION = (
    *("_convolution", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "addmv", "addr"),
    *("chain_matmul", "convolution", "einsum", "gru_cell", "linalg_multi_dot", "lstm_cell", "mv"),
    *("rnn_relu_cell", "rnn_tanh_cell"),
)
"""Operators that CUDA's autocast runs in half precision, but the CPU's does not."""
FP32 = (
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log1p", "log2"),
    *("reciprocal", "rsqrt", "sinh", "tan", "softplus", "logsumexp", "renorm", "dist", "pdist"),
    *("pow.Scalar", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "cosine_similarity"),
    *("group_norm", "layer_norm", "native_layer_norm", "rms_norm"),
    *("frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim"),
)
"""Operators whose arguments CUDA's autocast casts to fp32."""
INTERPOLATION = (
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
"""Operators that CUDA's autocast casts to fp32 since 2.4 (`Change.INTERPOLATION_IN_FP32`)."""
GELU = ("gelu",)
"""Operators cast to fp32 until 1.9 (`Change.GELU_IN_HALF_PRECISION`)."""
FP32_OUTPUT = (
    *("softmax.int", "log_softmax.int", "cumprod", "cumsum", "prod", "prod.dim_int"),
    *("sum", "sum.dim_IntList", "linalg_vector_norm", "linalg_matrix_norm"),
    "linalg_matrix_norm.str_ord",
)
"""Operators that read half precision and write fp32, unless the call names a dtype."""
FP32_OUTPUT_OVERLOADS = {
    "norm.Scalar": "norm.ScalarOpt_dtype",
    "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype",
}
"""Operators like `FP32_OUTPUT` whose dtype is an argument of another overload."""
WIDEST = (
    *("addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler"),
    *("index_put", "tensordot", "scatter_add"),
)
"""Operators whose arguments are all cast to the widest type among them."""
REFUSED = ("binary_cross_entropy",)
"""Operators that raise under CUDA's autocast."""
_SAME_ON_BOTH = ("conv1d.padding", "conv2d.padding", "conv3d.padding")
"""Operators on the CPU's list only that call operators on CUDA's list: the casts are the same."""


@functools.cache
def autocast_kernels(version: Version = INSTALLED) -> tuple[tuple[str, Kernel], ...]:
    """Operator names and kernels that make the CPU's autocast behave like CUDA's in a version."""
    kernels: list[tuple[str, Kernel]] = []
    interpolation = INTERPOLATION if has(version, Change.INTERPOLATION_IN_FP32) else ()
    gelu = () if has(version, Change.GELU_IN_HALF_PRECISION) else GELU
    policies = (
        (LOWER_PRECISION, _in_lower_precision),
        ((*FP32, *interpolation, *gelu), _in_fp32),
        (FP32_OUTPUT, _with_fp32_output),
        (tuple(FP32_OUTPUT_OVERLOADS), _with_fp32_overload),
        (WIDEST, _in_widest),
        (REFUSED, _refused),
    )
    on_cuda = operators_cast("AutocastCUDA").union(gelu)
    for names, policy in policies:
        kernels += [(name, policy(name)) for name in names if name in on_cuda]
    on_cpu_alone = operators_cast("AutocastCPU") - on_cuda
    kernels += [(name, fallthrough_kernel) for name in on_cpu_alone.difference(_SAME_ON_BOTH)]
    return tuple(kernels)


def operators_cast(key: str) -> frozenset[str]:
    """Names, without `aten::`, of the operators with an autocast kernel.

    Args:
        key: The dispatch key, such as "AutocastCUDA".
    """
    names = torch._C._dispatch_get_all_op_names()  # noqa: SLF001 - no public name
    return frozenset(
        name.removeprefix("aten::")
        for name in names
        if name.startswith("aten::") and _has_kernel(name, key)
    )


def _operator(name: str) -> Kernel:
    packet, _, overload = name.partition(".")
    operator: Kernel = getattr(getattr(_aten, packet), overload or "default")
    return operator


def _call(operator: Kernel, args: Any, kwargs: Any) -> Any:
    """Call an operator with autocast excluded, as autocast's kernels do."""
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):  # noqa: SLF001 - no public name
        return operator(*args, **kwargs)


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    """Cast floating-point tensors other than double precision, as autocast does."""

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
        # If the caller names a later argument, PyTorch passes defaults too: `dtype` can be among
        # the positional arguments, as the last of them, and be None.
        takes_dtype_by_name = len(args) <= place
        dtype = kwargs.get("dtype") if takes_dtype_by_name else args[place]
        if is_half(args[0]) and dtype is None:
            args, kwargs = args[:place], {**kwargs, "dtype": torch.float32}
        return _call(operator, args, kwargs)

    return run


def _with_fp32_overload(name: str) -> Kernel:
    operator, wider = _operator(name), _operator(FP32_OUTPUT_OVERLOADS[name])

    def run(*args: Any, **kwargs: Any) -> Any:
        if is_half(args[0]):
            # PyTorch passes no defaults to kernels, and the other overload has none.
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


def _refused(name: str) -> Kernel:
    """Make a kernel that raises, like `binary_cross_entropy_banned` in ATen/autocast_mode.cpp."""

    def run(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{name} and torch.nn.BCELoss are unsafe to autocast: use {name}_with_logits or "
            "torch.nn.BCEWithLogitsLoss on the logits, without a sigmoid"
        )

    return run


def is_half(tensor: torch.Tensor) -> bool:
    """True for a tensor in fp16 or bfloat16."""
    return tensor.dtype in (torch.float16, torch.bfloat16)
