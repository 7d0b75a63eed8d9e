"""Temporary memory of CUDA's indexing and sorting kernels, computed from shapes.

PyTorch expands a boolean mask to one index per true value. That number is not known here, so all
values count as true. Files are in aten/src/ATen/native.

Left out, because they are small or not documented: single values and counters (of `nonzero` and of
`topk`'s search), cub's memory beyond the buffers for keys and values, and the copies of several
index tensors with different strides (`AdvancedIndex`, TensorAdvancedIndexing.cpp).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from bsprobe.simulate.cuda.autocast import Kernel
from bsprobe.simulate.cuda.effects import (
    Effects,
    Inside,
    Rule,
    copies,
    is_dense,
    tensors_of,
    with_inside,
)

aten = torch.ops.aten
_INDEX_BYTES: Final = 8
_INT32_MAX: Final = 2**31 - 1
_ONE_PASS_BITS: Final = 8
"""Bits that cub's radix sort sorts in one pass, without additional buffers (`RADIX_BITS` of its
policies is at most 8: dispatch_radix_sort.cuh)."""
_SMALL_SORT: Final = 4096
"""Longest slice that is sorted in place (`should_use_small_sort`, cuda/Sort.h)."""
_LARGE_SEGMENT, _MANY_SEGMENTS = 1_000_000, 128
"""Thresholds of `launch_stable_sort_kernel` (cuda/SortStable.cu)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexed:
    """The sizes of an indexing operation.

    Attributes:
        masks: The masks among the indices.
        dimensions: Number of indexed dimensions.
        positions: Upper bound of the indexed positions over these dimensions.
        slice_elements: Elements behind the last indexed dimension.
        elements: Elements that are read or written.
    """

    masks: tuple[torch.Tensor, ...]
    dimensions: int
    positions: int
    slice_elements: int
    elements: int

    def expanded(self) -> tuple[int, ...]:
        """Bytes of the indices that the masks expand to (`expandTensors`, IndexingUtils.h)."""
        counts = ((min(mask.numel(), self.positions), mask.dim()) for mask in self.masks)
        return tuple(_INDEX_BYTES * count * dimensions for count, dimensions in counts)


def _indexed(x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> _Indexed:
    masks = tuple(each for each in indices if each is not None and is_mask(each))
    shapes = [each.shape for each in indices if each is not None and not is_mask(each)]
    positions = math.prod(torch.broadcast_shapes(*shapes))
    if positions == 1 and masks:
        positions = max(mask.numel() for mask in masks)
    dimensions = _dimensions(indices)
    indexed = math.prod(x.shape[dimension] for dimension in dimensions)
    others = x.numel() // indexed if indexed else 0
    return _Indexed(
        masks=masks,
        dimensions=len(dimensions),
        positions=positions,
        slice_elements=math.prod(x.shape[dimensions[-1] + 1 :]) if dimensions else 0,
        elements=positions * others,
    )


def _dimensions(indices: Sequence[torch.Tensor | None]) -> list[int]:
    found: list[int] = []
    dimension = 0
    for index in indices:
        width = index.dim() if index is not None and is_mask(index) else 1
        if index is not None:
            found.extend(range(dimension, dimension + width))
        dimension += width
    return found


def is_mask(index: torch.Tensor) -> bool:
    """True for a mask, a boolean or uint8 index."""
    return index.dtype in (torch.bool, torch.uint8)


def _nonzero(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the input (`nonzero_cuda_out_impl`, cuda/Nonzero.cu)."""
    return with_inside(out, copies(args[:1], torch.contiguous_format))


def _index(args: tuple[Any, ...], out: Any) -> Effects:
    """The indices that masks expand to (`make_info`, TensorAdvancedIndexing.cpp)."""
    x, indices = args
    return _selected(_indexed(x, indices), out)


def _masked_select(args: tuple[Any, ...], out: Any) -> Effects:
    """The indices of the mask, expanded to the input's shape (cuda/IndexKernel.cpp)."""
    x, mask = torch.broadcast_tensors(*args)
    return _selected(_indexed(x, (mask,)), out)


def _selected(indexed: _Indexed, out: torch.Tensor) -> Effects:
    """`nonzero` of each mask, then the output beside the indices."""
    indices = indexed.expanded()
    if copied := copies(indexed.masks, torch.contiguous_format):
        yield Inside(sizes=(*copied, *indices))
    yield from with_inside(out, indices)


def _index_put(args: tuple[Any, ...], out: Any) -> Effects:
    """The indices that masks expand to, and the buffers of a sort if values accumulate.

    A scalar on the host that is put by a mask becomes a `masked_fill`, without indices
    (`canDispatchToMaskedFill`).

    Source: `_index_put_impl_` in TensorAdvancedIndexing.cpp.
    """
    x, indices, values, *rest = args
    indexed = _indexed(x, indices)
    yield from tensors_of(out)
    if rest and rest[0]:
        yield from _sorted_put(x, indexed, values)
    elif values.dim() or len(indexed.masks) < sum(each is not None for each in indices):
        copied = copies(indexed.masks, torch.contiguous_format)
        if sizes := (*copied, *indexed.expanded()):
            yield Inside(sizes=sizes)


def _sorted_put(x: torch.Tensor, indexed: _Indexed, values: torch.Tensor) -> Iterator[Inside]:
    """Memory of `index_put_with_sort_kernel` (cuda/Indexing.cu).

    First the linear index of each position, with a remainder and a product per dimension
    (`computeLinearIndex`). Then the linear, sorted and original indices and a range, beside the
    expanded values.
    """
    each = _INDEX_BYTES * indexed.positions
    if not each or not indexed.slice_elements:
        return
    dense = copies((x,), torch.contiguous_format)
    masks = copies(indexed.masks, torch.contiguous_format)
    linear = (each,) * min(indexed.dimensions, 2)
    yield Inside(sizes=(*dense, *masks, *indexed.expanded(), *linear, each))
    full = indexed.elements * values.element_size()
    is_full = values.is_contiguous() and values.numel() == indexed.elements
    bits = ((x.numel() - 1) // indexed.slice_elements).bit_length()
    passes = (each, each) if bits > _ONE_PASS_BITS else ()
    yield Inside(sizes=(*dense, *(() if is_full else (full,)), *(each,) * 4, *passes))


def _masked_scatter(args: tuple[Any, ...], out: Any) -> Effects:
    """A prefix sum of the mask in int64, and dense copies.

    Source: `masked_scatter__cuda` (cuda/IndexKernel.cpp).

    The copies are those of `launch_masked_scatter_kernel` (cuda/IndexKernel.cu).
    """
    _, mask, source = args
    dense = copies((mask.expand(out.shape), source), torch.contiguous_format)
    return with_inside(out, (_INDEX_BYTES * out.numel(), *dense))


def _sort(args: tuple[Any, ...], out: Any) -> Effects:
    """The buffers of `sort_cuda_kernel` (cuda/Sort.cpp).

    The stable overload takes its dimension as a keyword, which rules do not see. The last dimension
    is assumed.
    """
    x, *rest = args
    return with_inside(out, _sort_bytes(x, rest[0] if rest else -1))


def _sort_bytes(x: torch.Tensor, dimension: int) -> tuple[int, ...]:
    if not x.dim() or not x.numel():
        return ()
    length = x.shape[dimension]
    if length <= _SMALL_SORT:
        return (_INDEX_BYTES * length,)  # `fillSliceWithIndex`
    values, indices = x.numel() * x.element_size(), x.numel() * _INDEX_BYTES
    laid_out: tuple[int, ...] = ()
    if x.stride(dimension) != 1:  # the input with that dimension last, and both outputs
        laid_out = (values, values, indices)
    elif not is_dense(x):
        laid_out = (values,)
    return (*laid_out, *_segments_bytes(x, length))


def _segments_bytes(x: torch.Tensor, length: int) -> tuple[int, ...]:
    """Memory of `launch_stable_sort_kernel` (cuda/SortStable.cu).

    If it needs more than one pass, cub's radix sort of pairs has a second buffer for keys and for
    values (O(N) temporary storage in the documentation of `cub::DeviceRadixSort`).
    """
    elements = min(x.numel(), _INT32_MAX // length * length)
    segments, size = elements // length, x.element_size()
    takes_one_pass = 8 * size <= _ONE_PASS_BITS
    held: tuple[int, ...]
    if segments == 1 or length >= _LARGE_SEGMENT:
        elements, held = length, (_INDEX_BYTES * length,)
    elif segments < _MANY_SEGMENTS:  # pairs of index and segment, twice, and the sorted keys
        held = (_INDEX_BYTES * elements, _INDEX_BYTES * elements, size * elements)
    else:
        held = (_INDEX_BYTES * elements,)
    passes = () if takes_one_pass else (size * elements, _INDEX_BYTES * elements)
    return (*held, *passes)


def _topk(args: tuple[Any, ...], out: Any) -> Effects:
    """The buffers for sorting the k values, and a copy (`topk_out_cuda`, cuda/TensorTopK.cpp)."""
    _, k, *rest = args
    dimension = rest[0] if rest else -1
    is_sorted = rest[2] if len(rest) > 2 else True  # noqa: PLR2004 - its place
    values, indices = out
    if not is_sorted or k <= _SMALL_SORT:
        return tensors_of(out)
    copied = indices.numel() * _INDEX_BYTES, values.numel() * values.element_size()
    return with_inside(out, (*copied, *_sort_bytes(values, dimension)))


INDEXING: dict[Kernel, Rule] = {
    aten.nonzero.default: _nonzero,
    aten.index.Tensor: _index,
    aten.masked_select.default: _masked_select,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put,
    aten._index_put_impl_.default: _index_put,
    aten.masked_scatter.default: _masked_scatter,
    aten.masked_scatter_.default: _masked_scatter,
    aten.sort.default: _sort,
    aten.sort.stable: _sort,
    aten.topk.default: _topk,
}
