"""CUDA's choice of a kernel for `scaled_dot_product_attention`.

The trace does not know the card and assumes an A100 (compute capability 8.0). These differences of
other cards are left out:

- Before 8.0 there is no flash attention; half precision runs the memory-efficient kernels.
- From 9.0 on, new PyTorch with cuDNN later than 9.15.1 prefers cuDNN's attention for half
  precision (`check_prefer_cudnn_attention`). It saves the same tensors as flash attention, with
  another layout of the result. Its workspace is not published.
- On 8.6, 8.9 and 12.0 flash attention does not train heads wider than 192.

Source: `can_use_flash_attention`, `can_use_mem_efficient_attention` and `select_sdp_backend` in
ATen/native/transformers/cuda/sdp_utils.cpp, with the conditions of sdp_utils_cpp.h.
"""

import math
from enum import Enum, auto

import torch

from bsprobe.simulate.cuda.autocast import is_half
from bsprobe.simulate.versions import INSTALLED, Change, has

aten = torch.ops.aten
_DIMENSIONS = 4
"""Dimensions of the operands of a fused kernel: images, heads, tokens and head width."""
_WIDEST_FLASH = 256
"""`check_head_dim_size_flash`."""
_ALIGNED_TO = 8
"""Multiple of elements to which flash attention pads head widths and the memory-efficient kernels
pad mask rows (`pad_last_dim` and `preprocess_mask` in ATen/native/transformers/attention.cpp)."""


class Attention(Enum):
    """A kernel that computes attention."""

    FLASH = auto()
    EFFICIENT = auto()
    MATH = auto()
    """Matrix products and a softmax, without a fused kernel."""


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - PyTorch's signature
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute attention with the operators that CUDA chooses.

    Args:
        query: (images, heads, tokens, head width).
        key: (images, key heads, key tokens, head width).
        value: (images, key heads, key tokens, value width).
        attn_mask: Mask that broadcasts to (images, heads, tokens, key tokens): booleans, or
            numbers to add; None for no mask.
        dropout_p: Probability of dropout.
        is_causal: True for a causal mask.
        scale: Factor of the scores; None for 1 / sqrt(head width).
        enable_gqa: True to allow grouped queries: fewer key heads than heads.

    Returns:
        (images, heads, tokens, value width).

    Source: `scaled_dot_product_attention` in ATen/native/transformers/attention.cpp.
    """
    parts = (query, key, value)
    kernel = choice(*parts, attn_mask, is_causal=is_causal, enable_gqa=enable_gqa)
    if kernel is Attention.FLASH:
        return _flash(*parts, dropout_p, is_causal, scale)
    mask = added(attn_mask, query.dtype)
    if kernel is Attention.EFFICIENT:
        return _efficient(*parts, mask, dropout_p, is_causal, scale)
    given = (*parts, mask, dropout_p, is_causal, None)
    made = aten._scaled_dot_product_attention_math(*given, scale=scale, enable_gqa=enable_gqa)  # noqa: SLF001 - its name, here and below
    out: torch.Tensor = made[0]
    return out


def choice(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool,
    enable_gqa: bool,
) -> Attention:
    """The first enabled kernel that supports the operands, in CUDA's default order.

    Args:
        query: (images, heads, tokens, head width).
        key: (images, key heads, key tokens, head width).
        value: (images, key heads, key tokens, value width).
        mask: The mask, or None.
        is_causal: True for a causal mask.
        enable_gqa: True to allow grouped queries: fewer key heads than heads.
    """
    parts = (query, key, value)
    if not _are_fusible(*parts):
        return Attention.MATH
    widths = {each.shape[3] for each in parts}
    if (
        torch.backends.cuda.flash_sdp_enabled()
        and mask is None
        and is_half(query)
        and len(widths) == 1
        and query.shape[3] <= _WIDEST_FLASH
        and not (is_causal and query.shape[2] != key.shape[2])
        and (query.shape[3] == 1 or all(each.stride(3) == 1 for each in parts))
        and _have_heads(*parts, is_grouped=enable_gqa)
    ):
        return Attention.FLASH
    alignment = 16 // query.element_size()  # `minimum_gemm_alignment`: 128 bits for tensor cores
    if (
        torch.backends.cuda.mem_efficient_sdp_enabled()
        and (is_half(query) or query.dtype is torch.float32)
        and query.shape[3] == key.shape[3]
        and all(width > 0 and width % alignment == 0 for width in widths)
        and all(each.stride(-1) == 1 for each in (*parts, *(() if mask is None else (mask,))))
        and _have_heads(*parts, is_grouped=enable_gqa and _HAS_GROUPS)
    ):
        return Attention.EFFICIENT
    return Attention.MATH


_HAS_GROUPS = has(INSTALLED, Change.GROUPED_QUERIES_FUSED)


def _are_fusible(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """`check_tensor_shapes`, `check_tensor_dtype` and `check_nonzero_sequence_lengths_dense`."""
    return (
        query.dim() == key.dim() == value.dim() == _DIMENSIONS
        and query.dtype == key.dtype == value.dtype
        and query.shape[0] == key.shape[0] == value.shape[0]
        and 0 not in (query.shape[2], key.shape[2])
    )


def _have_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_grouped: bool
) -> bool:
    """`check_batch_size_and_num_heads_dense`."""
    of_query, of_key, of_value = (each.shape[1] for each in (query, key, value))
    if is_grouped or (_HAS_GROUPS and of_key == 1):
        return of_key == of_value and of_query % of_key == 0
    return of_query == of_key == of_value


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    is_causal: bool,  # noqa: FBT001 - as above
    scale: float | None,
) -> torch.Tensor:
    """Run flash attention, with head widths padded to a multiple of eight."""
    width = query.shape[3]
    padding = -width % _ALIGNED_TO
    parts = [aten.pad(each, [0, padding]) if padding else each for each in (query, key, value)]
    scale = 1 / math.sqrt(width) if scale is None else scale
    given = (*parts, dropout_p, is_causal)
    out: torch.Tensor = aten._scaled_dot_product_flash_attention(*given, scale=scale)[0]  # noqa: SLF001
    return out[..., :width] if padding else out


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,  # noqa: FBT001 - as above
    scale: float | None,
) -> torch.Tensor:
    """Run the memory-efficient kernel, with an aligned mask expanded to all images and heads."""
    parts = (query, key, value)
    if mask is not None:
        mask = _aligned(mask).expand(*query.shape[:3], key.shape[2])
    learns = torch.is_grad_enabled() and any(each.requires_grad for each in parts)
    given = (*parts, mask, learns, dropout_p, is_causal)
    out: torch.Tensor = aten._scaled_dot_product_efficient_attention(*given, scale=scale)[0]  # noqa: SLF001
    return out


def added(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Convert a boolean mask to one that is added to the scores.

    Source: `convert_boolean_attn_mask`, since pytorch/pytorch#139784 in 2.6.
    """
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.where(mask, torch.scalar_tensor(0.0, dtype=dtype), -math.inf)


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """Pad a mask so that rows begin at multiples of eight elements.

    Source: `preprocess_mask` and `pad_bias`.
    """
    if mask.stride(-1) == 1 and all(each % _ALIGNED_TO == 0 for each in mask.stride()[:-1]):
        return mask
    size = mask.shape[-1]
    padded: torch.Tensor = aten.pad(mask, [0, _ALIGNED_TO - size % _ALIGNED_TO])
    return padded[..., :size]
