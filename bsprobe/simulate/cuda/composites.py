"""Composite operators that PyTorch decomposes differently under a dispatch mode.

Under a mode they write nothing in place (`isTensorSubclassLike` in
ATen/TensorSubclassLikeUtils.h). These kernels call the same operators as on real tensors.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from bsprobe.simulate.cuda.attention import added
from bsprobe.simulate.cuda.autocast import Kernel, is_half

aten = torch.ops.aten
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001 - no public name
_MATRIX = 2
"""Dimensions of an input that `linear` does not reshape."""


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """Add the bias in place if it is not fused (`linear` in ATen/native/Linear.cpp).

    PyTorch fuses it if the input is a matrix or contiguous.
    """
    if bias is None or x.dim() == _MATRIX or x.is_contiguous():
        return aten.linear.default._op_dk(_COMPOSITE, x, weight, bias)  # noqa: SLF001 - as above
    return aten.matmul(x, weight.t()).add_(bias)


def _attention(  # noqa: PLR0913 - PyTorch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - PyTorch's signature
    dropout_mask: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the mask in place (`_scaled_dot_product_attention_math` in transformers/attention.cpp).

    PyTorch's own kernel handles calls without a mask, and calls with a dropout mask, which only its
    tests use.
    """
    if dropout_mask is not None or (mask is None and not is_causal):
        operator = aten._scaled_dot_product_attention_math.default  # noqa: SLF001 - its name
        given = (query, key, value, mask, dropout_p, is_causal, dropout_mask)
        return operator._op_dk(_COMPOSITE, *given, scale=scale, enable_gqa=enable_gqa)  # type: ignore[no-any-return] # noqa: SLF001 - as above
    dtype, parts = query.dtype, (query, key, value)
    if is_half(query) and not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed():
        parts = (query.float(), key.float(), value.float())
    query, key, value = parts
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    factor = math.sqrt(abs(scale))
    query = aten.mul.Scalar(query, math.copysign(factor, scale))
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        mask = added(mask, query.dtype)
    if enable_gqa:
        key, value = (_repeated(each, query.shape[-3]) for each in (key, value))
    weights = query.matmul(aten.mul.Scalar(key.transpose(-2, -1), factor)).add_(mask)  # type: ignore[arg-type] # there is one
    weights = aten._safe_softmax(weights, -1)  # noqa: SLF001 - its name
    if dropout_p > 0:
        weights = aten.dropout(weights, dropout_p, True)  # noqa: FBT003 - PyTorch's signature
    returned = weights.to(dtype)
    return weights.matmul(value).to(dtype), returned


def _repeated(part: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat keys or values for each head (`pre_process_group_query_attention_input`)."""
    of_part = part.shape[-3]
    return part if of_part == heads else part.repeat_interleave(heads // of_part, -3)


def _one_hot(labels: torch.Tensor, classes: int = -1) -> Any:
    """Write ones into zeros (`one_hot` in ATen/native/Onehot.cpp); a mode sees a comparison."""
    if classes < 1 or labels.numel() == 0:
        return aten.one_hot.default._op_dk(_COMPOSITE, labels, classes)  # noqa: SLF001 - as above
    zeros = torch.zeros((*labels.shape, classes), dtype=labels.dtype, device=labels.device)
    return zeros.scatter_(-1, labels.unsqueeze(-1), 1)


COMPOSITES: Final[Mapping[str, Kernel]] = MappingProxyType(
    {"linear": _linear, "one_hot": _one_hot, "_scaled_dot_product_attention_math": _attention}
)
"""Kernels by operator name."""
