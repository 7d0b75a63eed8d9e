"""Memory inside CUDA's indexing and sorting kernels, as in their source."""

from typing import Any

import pytest
import torch

from bsprobe.simulate.cuda import Inside, effects
from bsprobe.simulate.cuda.scratch import aten
from tests.support.traced_networks import extra, tracer_of

MASK = torch.ones(2, 4, 6, dtype=torch.bool)
PIXELS = 2 * 4 * 6
INDEX = 8 * PIXELS
"""Bytes of one index per pixel of the mask."""
IMAGES = torch.empty(2, 4, 6, 5)


def inside(operator: Any, *args: Any, out: Any) -> list[tuple[int, ...]]:
    """Sizes of an operator's temporary memory."""
    return [each.sizes for each in effects(operator, args, out) if isinstance(each, Inside)]


def test_nonzero_copies_what_is_not_dense() -> None:
    out = torch.empty(PIXELS, 3, dtype=torch.int64)

    assert inside(aten.nonzero.default, MASK, out=out) == []
    assert inside(aten.nonzero.default, MASK.transpose(1, 2), out=out) == [(PIXELS,)]


def test_a_mask_becomes_an_index_for_each_of_its_dimensions() -> None:
    out = torch.empty(PIXELS, 5)

    assert inside(aten.index.Tensor, IMAGES, [MASK], out=out) == [(3 * INDEX,)]
    flat = IMAGES.view(PIXELS, 5)
    assert inside(aten.index.Tensor, flat, [MASK.view(-1)], out=out) == [(INDEX,)]
    # `nonzero` reads a dense copy of the mask before the output is allocated.
    laid_out = MASK.transpose(1, 2).contiguous().transpose(1, 2)
    found = list(effects(aten.index.Tensor, (IMAGES, [laid_out]), out))
    assert found[0] == Inside(sizes=(PIXELS, 3 * INDEX))
    assert found[1] is out
    assert found[2] == Inside(sizes=(3 * INDEX,))


def test_integer_indices_take_nothing_and_bound_the_indices_of_a_mask_beside_them() -> None:
    rows = torch.zeros(7, dtype=torch.int64)

    assert inside(aten.index.Tensor, IMAGES, [rows], out=torch.empty(7, 4, 6, 5)) == []
    mask = torch.ones(4, 6, dtype=torch.bool)
    mixed = inside(aten.index.Tensor, IMAGES, [rows, mask], out=torch.empty(7, 5))
    assert mixed == [(8 * 7 * 2,)]


def test_a_selection_by_a_mask_that_is_broadcast_indexes_every_element() -> None:
    logits, mask = torch.empty(2, 3, 4), torch.ones(2, 1, 4, dtype=torch.bool)
    every = 2 * 3 * 4
    found = list(effects(aten.masked_select.default, (logits, mask), torch.empty(every)))

    assert found[0] == Inside(sizes=(every, 8 * every * 3))
    assert found[2] == Inside(sizes=(8 * every * 3,))


def test_a_number_is_filled_in_by_a_mask_and_other_values_by_its_indices() -> None:
    put = aten.index_put_.default
    number, rows = torch.tensor(0.0), torch.empty(PIXELS, 5)

    assert inside(put, IMAGES, [MASK], number, out=IMAGES) == []
    assert inside(put, IMAGES, [MASK], rows, out=IMAGES) == [(3 * INDEX,)]
    assert inside(put, IMAGES, [torch.tensor([0, 1])], number, out=IMAGES) == []


@pytest.mark.parametrize(
    "operator", [aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default]
)
def test_values_that_accumulate_are_sorted_by_position(operator: Any) -> None:
    rows = torch.empty(PIXELS, 5)
    linear = (INDEX,) * 3  # their sum, a remainder and a product
    found = inside(operator, IMAGES, [MASK], rows, True, out=IMAGES)  # noqa: FBT003 - accumulate

    # 48 positions are sorted by 6 bits, in one pass.
    assert found == [(3 * INDEX, *linear), (INDEX,) * 4]


def test_more_than_256_positions_are_sorted_with_second_buffers() -> None:
    x, index = torch.empty(257, 5), torch.zeros(9, dtype=torch.int64)
    put = aten.index_put.default
    each = 8 * 9
    found = inside(put, x, [index], torch.empty(9, 5), True, out=x)  # noqa: FBT003 - accumulate

    assert found == [(each,) * 2, (each,) * 6]
    # Values that are broadcast, and a tensor that is not dense, are copied.
    turned = torch.empty(5, 257).t()
    found = inside(put, turned, [index], torch.empty(5), True, out=turned)  # noqa: FBT003
    dense = 4 * 257 * 5
    assert found == [(dense, each, each), (dense, 4 * 9 * 5, *(each,) * 6)]


def test_a_scatter_by_a_mask_sums_the_mask_and_copies_what_is_broadcast() -> None:
    x, mask = torch.empty(2, 3, 4), torch.ones(2, 1, 4, dtype=torch.bool)
    scatter = aten.masked_scatter.default

    assert inside(scatter, x, mask, torch.empty(24), out=x) == [(8 * 24, 24)]
    full = torch.ones(2, 3, 4, dtype=torch.bool)
    assert inside(scatter, x, full, torch.empty(24), out=x) == [(8 * 24,)]
    assert inside(scatter, x, full, torch.empty(6, 8).t()[:4], out=x) == [(8 * 24, 4 * 24)]


def sorted_bytes(x: torch.Tensor, dimension: int = -1) -> tuple[int, ...]:
    """Sizes of the temporary memory of a sort."""
    out = torch.empty_like(x), torch.empty_like(x, dtype=torch.int64)
    (sizes,) = inside(aten.sort.default, x, dimension, out=out)
    return sizes


def test_short_slices_are_sorted_in_place() -> None:
    assert sorted_bytes(torch.empty(3, 4096)) == (8 * 4096,)
    scalar = torch.empty(())
    assert inside(aten.sort.default, scalar, 0, out=(scalar, scalar)) == []


@pytest.mark.parametrize(
    ("dtype", "segments", "sizes"),
    [
        # A range for one slice, and cub's second buffers for keys and values.
        (torch.float32, 1, (8, 4, 8)),
        (torch.float16, 1, (8, 2, 8)),
        (torch.uint8, 1, (8,)),
        # Pairs of index and segment twice, sorted keys, and the buffers.
        (torch.float32, 127, (8, 8, 4, 4, 8)),
        # A range for every slice.
        (torch.float32, 128, (8, 4, 8)),
    ],
)
def test_long_slices_are_sorted_with_buffers(
    dtype: torch.dtype, segments: int, sizes: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        x = torch.empty(segments, 5000, dtype=dtype)

    assert sorted_bytes(x) == tuple(size * x.numel() for size in sizes)


def test_few_slices_of_a_million_are_sorted_one_by_one() -> None:
    with torch.device("meta"):
        x = torch.empty(3, 1_000_000)

    assert sorted_bytes(x) == (8_000_000, 4_000_000, 8_000_000)


def test_a_dimension_that_is_not_the_last_is_copied_to_be_the_last() -> None:
    with torch.device("meta"):
        x = torch.empty(5000, 1)
        turned = torch.empty(5000, 2)
        part = torch.empty(2, 6000)[:, :5000]

    one_slice = (8 * 5000, 4 * 5000, 8 * 5000)
    assert sorted_bytes(x, 0) == one_slice
    values, indices = 4 * 10000, 8 * 10000
    two_slices = (indices, indices, values, values, indices)
    assert sorted_bytes(turned, 0) == (values, values, indices, *two_slices)
    out = torch.empty(2, 5000, device="meta"), torch.empty(2, 5000, device="meta")
    assert inside(aten.sort.default, part, out=out) == [(values, *two_slices)]


def test_topk_sorts_more_than_4096_values_beside_a_copy() -> None:
    with torch.device("meta"):
        x = torch.empty(100_000)
        few = torch.empty(4096), torch.empty(4096, dtype=torch.int64)
        many = torch.empty(4097), torch.empty(4097, dtype=torch.int64)

    assert inside(aten.topk.default, x, 4096, out=few) == []
    sizes = tuple(size * 4097 for size in (8, 4, 8, 4, 8))
    assert inside(aten.topk.default, x, 4097, out=many) == [sizes]
    unsorted = (4097, -1, True, False)
    assert inside(aten.topk.default, x, *unsorted, out=many) == []


def test_a_traced_step_has_the_memory_of_a_sort() -> None:
    tracer = tracer_of(extra(lambda x: x * torch.sort(x.flatten())[0][:1].view(1, 1, 1, 1)))
    scratches = [each for each in tracer.record(7).scratches if each.place.operator == "sort"]

    elements = 7 * 8 * 8 * 12  # of the first layer
    assert {each.sizes for each in scratches} == {
        (8 * elements, 4 * elements, 8 * elements),
    }
