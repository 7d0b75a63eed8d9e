"""The memory that sums take inside: copies, and what blocks hand on, which depends on the card."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from bsprobe.simulate.cuda import Inside, effects
from bsprobe.simulate.cuda.sums import reduction
from bsprobe.simulate.sums import Multiprocessors, Reduction

aten = torch.ops.aten
H100 = Multiprocessors(count=132, threads=2048)
RTX_3090 = Multiprocessors(count=82, threads=1536)
FP16, LAST = torch.float16, torch.channels_last
TOKENS = 64 * 197
BIAS = Reduction(outputs=768, inputs=TOKENS, item_bytes=2, sum_bytes=4, vector=4)


@pytest.mark.parametrize(
    ("outputs", "inputs", "sizes"),
    [
        (768, TOKENS, (77_463_552, 24)),
        (2304, TOKENS, (139_198_464, 72)),
        (3072, TOKENS, (138_412_032, 96)),
        (96, 64 * 56 * 56, (25_952_256, 8)),
        (384, 64 * 14 * 14, (38_535_168, 12)),
        (256, 2 * 128 * 256, (134_217_728, 8)),
        (1000, 64, ()),
    ],
)
def test_the_parts_of_a_sum_are_those_that_an_h100_was_recorded_with(
    outputs: int, inputs: int, sizes: tuple[int, ...]
) -> None:
    assert replace(BIAS, outputs=outputs, inputs=inputs).sizes_on(H100) == sizes


def test_a_card_with_fewer_threads_shares_an_output_among_fewer_blocks() -> None:
    blocks = 3072 // 128
    parts = -(-82 * (1536 // 128) // blocks)
    found = replace(BIAS, outputs=3072).sizes_on(RTX_3090)

    assert found == (4 * 3072 * parts * 128, 4 * blocks)


def test_what_no_32_bits_can_count_is_added_up_in_halves() -> None:
    half = replace(BIAS, inputs=2**20)

    assert half.outputs * half.inputs * half.item_bytes < 2**31
    assert replace(half, inputs=2**21).sizes_on(H100) == half.sizes_on(H100)


@pytest.mark.parametrize("outputs", [1, 3, 100, 40_000_000])
def test_sums_of_any_size_have_an_answer(outputs: int) -> None:
    for inputs in (1, 17, 5000, 10**7):
        found = replace(BIAS, outputs=outputs, inputs=inputs, vector=1).sizes_on(H100)
        assert len(found) in (0, 2)


def test_outer_dimensions_that_are_dense_are_summed_as_one() -> None:
    assert reduction(torch.empty(64, 197, 768, dtype=FP16), [0, 1]) == BIAS
    single = reduction(torch.empty(1, 6), [0])
    assert single == Reduction(outputs=6, inputs=1, item_bytes=4, sum_bytes=4, vector=2)
    assert reduction(torch.empty(8, 4, 6), [0, -2]) == Reduction(
        outputs=6, inputs=32, item_bytes=4, sum_bytes=4, vector=2
    )


def test_a_thread_computes_as_many_outputs_as_their_number_and_place_allow() -> None:
    def vector(x: torch.Tensor) -> int:
        found = reduction(x, [0])
        assert found is not None
        return found.vector

    rows = torch.empty(8, 8)
    assert [vector(rows[:, :width].contiguous()) for width in (8, 6, 5)] == [4, 2, 1]
    assert vector(rows[:, 2:6]) == 2
    assert vector(rows.expand(8, 8)[:, ::2]) == 1


def test_sums_over_the_innermost_dimension_hand_on_nothing_to_speak_of() -> None:
    maps = torch.empty(2, 8, 4, 4)

    assert reduction(maps, [0, 2, 3]) is None
    assert reduction(maps, range(4)) is None
    assert reduction(torch.empty(()), []) is None
    found = reduction(maps.to(memory_format=LAST), [0, 2, 3])
    assert found is not None
    assert (found.outputs, found.inputs, found.vector) == (8, 32, 4)


def insides(operator: Any, x: torch.Tensor, *args: Any, **options: Any) -> list[Inside]:
    out = operator(x, *args, **options)
    return [each for each in effects(operator, (x, *args), out) if isinstance(each, Inside)]


def test_numbers_are_copied_to_the_type_of_the_sum_unless_they_are_of_half_precision() -> None:
    with FakeTensorMode():
        valid, rows = torch.empty(5, 8, 6, dtype=torch.bool), torch.empty(9, 8, dtype=FP16)

        assert insides(aten.sum.default, valid) == [Inside(sizes=(8 * 240,))]
        counted = Reduction(outputs=6, inputs=40, item_bytes=8, sum_bytes=8, vector=2)
        (found,) = insides(aten.sum.dim_IntList, valid, [0, 1])
        assert found == Inside(sizes=(8 * 240,), reduction=counted)
        (found,) = insides(aten.mean.dim, rows, [0], dtype=torch.float32)
        in_full = Reduction(outputs=8, inputs=9, item_bytes=2, sum_bytes=4, vector=4)
        assert found == Inside(reduction=in_full)


def test_the_gradient_of_a_bias_is_a_sum_over_images_and_pixels() -> None:
    with FakeTensorMode():
        grad = torch.empty(2, 4, 8, 12).to(memory_format=LAST)
        x, weight = torch.empty(2, 8, 8, 12).to(memory_format=LAST), torch.empty(4, 8, 3, 3)
        settings = ([4], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, False, True])
        out = (None, None, torch.empty(4))
        *_, last = effects(aten.convolution_backward.default, (grad, x, weight, *settings), out)

    assert isinstance(last, Inside)
    assert last.reduction == reduction(grad, [0, 2, 3])
