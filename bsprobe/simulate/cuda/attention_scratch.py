"""Memory that CUDA's fused attention kernels take inside, on the card that attention.py assumes.

Left out:

- Flash attention's parts of keys, which are added up where few images and heads do not fill the
  card and nothing is dropped (`set_params_splitkv` in cuda/flash_attn/flash_api.cpp): how many
  there are depends on the card.
- Its copies of the gradient of the queries where algorithms must be deterministic (`mha_bwd`):
  likewise.
- The memory-efficient kernels' gradients of the keys and values of grouped queries.
- More than one part of the keys for which the memory-efficient kernels of wide heads stage the
  gradients of keys and values. There is one from 101 images and heads on, and below no more than
  200 blocks, 26 MB of heads 256 wide (`_efficient_attention_backward`): no line over the batch.
"""

from typing import Any, NamedTuple

import torch

from bsprobe.simulate.cuda.autocast import Kernel, is_half
from bsprobe.simulate.cuda.effects import Effects, Inside, Rule, copies, with_inside

aten = torch.ops.aten
_FP32 = 4
"""Bytes of a number of full precision."""
_FLASH_ROWS = 128
"""Queries are rounded up to this many in flash attention (`mha_bwd`, flash_api.cpp)."""


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _flash(args: tuple[Any, ...], out: Any) -> Effects:
    """Result, sums, and the state of the random numbers, in newer PyTorch on the card."""
    del args
    result, logsumexp, _, _, _, _, seed, offset, _ = out
    yield result
    yield logsumexp
    if seed.dtype is torch.uint64:  # Note [BC breaking change to flash seed/offset]
        yield seed
        yield offset


def _flash_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Dense copies, sums of rows and the queries' gradient in fp32.

    Grouped queries have gradients of keys and values for each head, which are then added up.
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
    """Result and logarithms of sums; the state of the random numbers is on the host.

    Half precision adds the result up in fp32 where a head is wider than a block of keys
    (`kNeedsOutputAccumulatorBuffer` in cuda/mem_eff_attention/kernel_forward.h).
    """
    del args
    result, logsumexp, _, _ = out
    yield result
    yield logsumexp
    if is_half(result) and result.shape[3] > 128:  # noqa: PLR2004 - kernels/cutlassF.h
        yield Inside(sizes=(_FP32 * result.numel(),))


def _efficient_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the gradient, sums of rows, and the queries' gradient in fp32.

    The kernels of half precision sum the rows themselves. For those of fp32, product, sum and its
    dense copy are tensors. Source: `_efficient_attention_backward` in cuda/attention_backward.cu.
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
    """Blocks of a memory-efficient kernel's backward pass."""

    queries: int
    keys: int
    is_staged: bool = False
    """True where gradients of keys and values are added up in memory, not in registers."""


def _blocks(width: int, *, is_half: bool, has_dropout: bool) -> _Blocks:
    """The first kernel of a list (`dispatch_cutlassB`, kernels/cutlassB.h, sm80).

    CUDA takes the first whose shared memory the card has. It is assumed to have that of all; for
    heads wider than 64 elements the list goes on with smaller blocks.
    """
    if width <= 64:  # noqa: PLR2004 - the widths are part of the kernels' names, here and below
        return _Blocks(64, 64)
    if not is_half:
        return _Blocks(128, 64)
    if width <= 96 and not has_dropout:  # noqa: PLR2004
        return _Blocks(128, 64)
    return _Blocks(128, 128) if width <= 128 else _Blocks(128, 64, is_staged=True)  # noqa: PLR2004


def _workspace(blocks: _Blocks, sizes: tuple[int, int, int, int]) -> int:
    """Bytes (`workspace_size` of cuda/mem_eff_attention/kernel_backward.h)."""
    images_heads, tokens, width, width_of_values = sizes
    parts = -(-tokens // blocks.queries) * -(-width // blocks.keys)
    elements = parts * (4 + blocks.queries * blocks.keys)  # a lock, a counter and padding
    if blocks.is_staged:
        wide = _round_up(width, blocks.queries) + _round_up(width_of_values, blocks.queries)
        elements += blocks.keys * wide
    return _FP32 * images_heads * _round_up(elements, 4)


def _safe_softmax(args: tuple[Any, ...], out: Any) -> Effects:
    """A softmax, and the result without rows of nothing (`_safe_softmax` in attention.cpp).

    Masked elements are bytes, one for each, and one for each row.
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
