"""Sums and means: their copies, and the numbers that they add up for each output.

The order of the dimensions is that of `TensorIteratorBase::reorder_dimensions` and
`coalesce_dimensions` in ATen/TensorIterator.cpp.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from bsprobe.simulate.cuda.autocast import Kernel, is_half
from bsprobe.simulate.cuda.effects import Effects, Inside, Rule
from bsprobe.simulate.sums import Reduction

aten = torch.ops.aten
_FP32 = 4
"""Bytes of a number of full precision."""
_WIDEST = 4
"""The most outputs that a thread computes at once (`get_output_vec_size`, cuda/Reduce.cuh)."""


class _Dimension(NamedTuple):
    """Size, and strides in elements; that of the output is 0 where it is summed over."""

    size: int
    of_output: int
    of_input: int


def reduction(
    x: torch.Tensor, dims: Sequence[int], dtype: torch.dtype | None = None
) -> Reduction | None:
    """A sum over dimensions; None where the innermost in memory is one of them.

    A single image is a sum like that of several.

    Args:
        x: The summands; half precision is summed in fp32.
        dims: The dimensions that are summed.
        dtype: The type that the numbers have been copied to, if they have.
    """
    item_bytes = (dtype or x.dtype).itemsize
    merged = _merged(_dimensions(x, {dim % x.dim() for dim in dims}))
    summed = [each for each in merged if not each.of_output]
    kept = [each for each in merged if each.of_output]
    if not kept or x.numel() == 0 or (summed and summed[0].of_input < kept[0].of_input):
        return None
    vector = 1
    if kept[0].of_input == 1:
        strides = (each.of_input for each in merged if each is not kept[0])
        vector = math.gcd(_WIDEST, x.storage_offset(), kept[0].size, *strides)
    return Reduction(
        outputs=math.prod(each.size for each in kept),
        inputs=math.prod(each.size for each in summed),
        item_bytes=item_bytes,
        sum_bytes=_FP32 if dtype is None and is_half(x) else item_bytes,
        vector=vector,
    )


def _dimensions(x: torch.Tensor, summed: set[int]) -> Iterable[_Dimension]:
    """Dimensions of more than one element: the summed ones first, each group from the innermost."""
    found, stride = [], 1
    for dim in reversed(range(x.dim())):
        of_output = 0 if dim in summed else stride
        if x.shape[dim] > 1:
            found.append(_Dimension(x.shape[dim], of_output, x.stride(dim)))
        if dim not in summed:
            stride *= x.shape[dim]
    return sorted(found, key=lambda each: each[1:])


def _merged(dimensions: Iterable[_Dimension]) -> list[_Dimension]:
    """The dimensions, with neighbours in memory merged."""
    merged: list[_Dimension] = []
    for each in dimensions:
        if merged and all(
            before * merged[-1].size == after
            for before, after in zip(merged[-1][1:], each[1:], strict=True)
        ):
            merged[-1] = merged[-1]._replace(size=merged[-1].size * each.size)
        else:
            merged.append(each)
    return merged


def _sum(args: tuple[Any, ...], out: Any) -> Effects:
    """A copy in the result's type, which half precision in fp32 is not, and parts of the sums.

    Source: `make_reduction_from_out_ty` in
    ATen/native/ReduceOpsUtils.h; `reduce_dispatch` in cuda/ReduceSumProdKernel.cu and
    `mean_kernel_cuda` in cuda/ReduceMomentKernel.cu.
    """
    x, dims = args[0], args[1] if len(args) > 1 else None
    yield out
    is_copied = x.dtype != out.dtype and not (is_half(x) and out.dtype is torch.float32)
    parts = reduction(x, dims or range(x.dim()), out.dtype if is_copied else None)
    copy = (x.numel() * out.element_size(),) if is_copied else ()
    if copy or parts is not None:
        yield Inside(sizes=copy, reduction=parts)


REDUCTIONS: dict[Kernel, Rule] = {
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten.mean.default: _sum,
    aten.mean.dim: _sum,
}
