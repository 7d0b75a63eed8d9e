"""Temporary memory of CUDA's fused attention kernels, on the card that attention.py assumes.

Left out:

- Partial results of flash attention over splits of the keys (`set_params_splitkv` in
  cuda/flash_attn/flash_api.cpp). The kernel splits the keys if few images and heads do not fill the
  card and there is no dropout. The number of splits depends on the card.
- Copies of the queries' gradient in deterministic flash attention (`mha_bwd`). Their number depends
  on the card too.
- Gradients of keys and values of grouped queries in the memory-efficient kernels.
- Splits of the keys beyond the first, for which the memory-efficient kernels of wide heads stage
  the gradients of keys and values (`_efficient_attention_backward`). From 101 images times heads
  on there is one split. Below that the staging takes at most 200 blocks, 26 MB for heads 256 wide,
  and is not linear in the batch.
"""

from typing import Any, NamedTuple

import torch

from bsprobe.simulate.cuda.autocast import Kernel, is_half
from bsprobe.simulate.cuda.effects import Effects, Inside, Rule, copies, with_inside

aten = torch.ops.aten
_FP32 = 4
"""Bytes of an fp32 element."""
_FLASH_ROWS = 128
"""Flash attention rounds the number of queries up to a multiple of this (`mha_bwd`)."""


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _flash(args: tuple[Any, ...], out: Any) -> Effects:
    """Result and log-sum-exp; in newer PyTorch also the state of the random numbers."""
    del args
    result, logsumexp, _, _, _, _, seed, offset, _ = out
    yield result
    yield logsumexp
    if seed.dtype is torch.uint64:  # Note [BC breaking change to flash seed/offset]
        yield seed
        yield offset


def _flash_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Dense copies, row sums and the queries' gradient in fp32.

    With grouped queries, the gradients of keys and values exist per query head and are then summed.

    Source: `_flash_attention_backward` in cuda/attention_backward.cu and `mha_bwd` in
    cuda/flash_attn/flash_api.cpp.
    """
    gradient, query, key, _, result, *_ = args
    images, heads, tokens, width = query.shape
    rows = images * heads * _round_up(tokens, _FLASH_ROWS)
    wide = _round_up(width, 32 if width <= 128 else 64)  # noqa: PLR2004 - as `mha_bwd`
    dense = (each.transpose(1, 2) for each in (gradient, result))
    sizes = (*copies(dense, torch.contiguous_format), _FP32 * rows, _FP32 * rows * wide)
    if key.shape[1] != heads:
        sizes += (images * key.shape[2] * heads * width * key.element_size(),) * 2
    return with_inside(out, sizes)


def _efficient(args: tuple[Any, ...], out: Any) -> Effects:
    """Result and log-sum-exp; the state of the random numbers is on the host.

    In half precision, the result is accumulated in fp32 if a head is wider than a block of keys
    (`kNeedsOutputAccumulatorBuffer` in cuda/mem_eff_attention/kernel_forward.h).
    """
    del args
    result, logsumexp, _, _ = out
    yield result
    yield logsumexp
    if is_half(result) and result.shape[3] > 128:  # noqa: PLR2004 - kernels/cutlassF.h
        yield Inside(sizes=(_FP32 * result.numel(),))


def _efficient_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the gradient, row sums, and the queries' gradient in fp32.

    The half-precision kernels sum the rows themselves. For the fp32 kernels, the product, the sum
    and a dense copy of the sum are tensors.

    Source: `_efficient_attention_backward` in cuda/attention_backward.cu.
    """
    gradient, query, _, value, _, result, *_ = args
    images, heads, tokens, width = query.shape
    dense = copies((gradient.transpose(1, 2),), torch.contiguous_format)
    sums = _FP32 * images * heads * tokens
    yield from (each for each in out if each is not None)
    if not is_half(query):
        transposed = (sums,) if heads > 1 and tokens > 1 else ()
        yield Inside(sizes=(*dense, _bytes_of(result), sums, *transposed))
    has_dropout = args[9] > 0
    blocks = _blocks(max(width, value.shape[3]), is_half=is_half(query), has_dropout=has_dropout)
    workspace = _workspace(blocks, (images * heads, tokens, width, value.shape[3]))
    yield Inside(sizes=(*dense, sums, workspace))


class _Blocks(NamedTuple):
    """Block sizes of a memory-efficient kernel's backward pass."""

    queries: int
    keys: int
    is_staged: bool = False
    """True if gradients of keys and values are accumulated in memory, not in registers."""


def _blocks(width: int, *, is_half: bool, has_dropout: bool) -> _Blocks:
    """Block sizes of the first kernel that `dispatch_cutlassB` lists (kernels/cutlassB.h, sm80).

    PyTorch runs the first kernel whose shared memory fits the card. The card is assumed to have
    enough for all of them; for heads wider than 64 the list also has kernels with smaller blocks.
    """
    if width <= 64:  # noqa: PLR2004 - the widths are part of the kernels' names, here and below
        return _Blocks(64, 64)
    if not is_half:
        return _Blocks(128, 64)
    if width <= 96 and not has_dropout:  # noqa: PLR2004
        return _Blocks(128, 64)
    return _Blocks(128, 128) if width <= 128 else _Blocks(128, 64, is_staged=True)  # noqa: PLR2004


def _workspace(blocks: _Blocks, sizes: tuple[int, int, int, int]) -> int:
    """Bytes of the workspace (`workspace_size` in cuda/mem_eff_attention/kernel_backward.h).

    Args:
        blocks: The kernel's block sizes.
        sizes: Images times heads, tokens, head width, value width.
    """
    images_heads, tokens, width, width_of_values = sizes
    parts = -(-tokens // blocks.queries) * -(-width // blocks.keys)
    elements = parts * (4 + blocks.queries * blocks.keys)  # a lock, a counter and padding
    if blocks.is_staged:
        wide = _round_up(width, blocks.queries) + _round_up(width_of_values, blocks.queries)
        elements += blocks.keys * wide
    return _FP32 * images_heads * _round_up(elements, 4)


def _safe_softmax(args: tuple[Any, ...], out: Any) -> Effects:
    """A softmax, and a copy with fully masked rows set to zero (`_safe_softmax` in attention.cpp).

    The masks take one byte for each element and one for each row.
    """
    x, dimension, *_ = args
    yield out
    yield Inside(sizes=(_bytes_of(out), x.numel(), x.numel() // max(1, x.shape[dimension])))


ATTENTION: dict[Kernel, Rule] = {
    # All of these are private names.
    aten._scaled_dot_product_flash_attention.default: _flash,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention.default: _efficient,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,  # noqa: SLF001
    aten._safe_softmax.default: _safe_softmax,  # noqa: SLF001
}
