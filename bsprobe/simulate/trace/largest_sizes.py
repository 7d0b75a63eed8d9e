"""Outputs of operators whose size depends on values, at their largest size.

`repeat_interleave` by a tensor, and `bincount` without `minlength`, have no bound.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from bsprobe.simulate.cuda.indexing import is_mask

aten = torch.ops.aten
_Unique = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _nonzero(x: torch.Tensor) -> torch.Tensor:
    """Return a row per element, with dense columns (`nonzero_cuda_out_impl`, cuda/Nonzero.cu)."""
    return x.new_empty((x.dim(), x.numel()), dtype=torch.int64).t()


def _masked_select(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x.new_empty(math.prod(torch.broadcast_shapes(x.shape, mask.shape)))


def _index(x: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    """Index with masks that select all elements: one index for each dimension of a mask."""
    expanded: list[torch.Tensor | None] = []
    for each in indices:
        if each is not None and is_mask(each):
            expanded += [each.new_empty(each.numel(), dtype=torch.int64)] * each.dim()
        else:
            expanded.append(each)
    out: torch.Tensor = aten.index.Tensor(x, expanded)
    return out


def _unique(x: torch.Tensor, *flags: bool) -> _Unique:
    """Return the outputs for distinct elements. Flags: sorted, with the inverse, with counts."""
    _, inverse, counts = (*flags, *(True, False, False)[len(flags) :])
    return _found(x, x.shape if inverse else 0, x.numel() if counts else 0, x.numel())


def _unique_dim(x: torch.Tensor, dim: int, *flags: bool) -> _Unique:
    """Return the outputs for distinct slices. Flags: as above."""
    _, inverse, counts = (*flags, *(True, False, False)[len(flags) :])
    length = x.shape[dim]
    return _found(x, length if inverse else 0, length if counts else 0, x.shape)


def _unique_consecutive(
    x: torch.Tensor,
    inverse: bool = False,  # noqa: FBT001, FBT002 - PyTorch's signature, here and below
    counts: bool = False,  # noqa: FBT001, FBT002
    dim: int | None = None,
) -> _Unique:
    """Return the outputs if no two neighbours are equal."""
    flags = (True, inverse, counts)
    return _unique(x, *flags) if dim is None else _unique_dim(x, dim, *flags)


def _found(x: torch.Tensor, inverse: Any, counts: int, values: Any) -> _Unique:
    return (
        x.new_empty(values),
        x.new_empty(inverse, dtype=torch.int64),
        x.new_empty(counts, dtype=torch.int64),
    )


def _bincount(
    x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0
) -> torch.Tensor:
    """Return `minlength` counts: labels are class numbers below it."""
    if not minlength:
        raise DynamicOutputShapeException(aten.bincount.default)
    if weights is None:
        return x.new_empty(minlength, dtype=torch.int64)
    # As in `_bincount_cuda` (cuda/SummaryOps.cu).
    return x.new_empty(
        minlength, dtype=weights.dtype if weights.is_floating_point() else torch.float64
    )


LARGEST: dict[Any, Callable[..., Any]] = {
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.index.Tensor: _index,
    aten._unique2.default: _unique,  # noqa: SLF001 - no public name
    aten.unique_dim.default: _unique_dim,
    aten.unique_consecutive.default: _unique_consecutive,
    aten.bincount.default: _bincount,
}
"""Functions by operator, which take the operator's arguments and run on fake tensors."""
