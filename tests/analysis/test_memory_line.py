"""The line through measured peaks, and its prediction for other batches."""

import pytest

from bsprobe.analysis.memory_line import Line, line_through, slope_through


def test_the_line_goes_through_the_two_largest_batches() -> None:
    assert line_through([(8, 180), (1, 500), (4, 100)]) == Line(
        fixed_bytes=20.0, per_image_bytes=20.0
    )


@pytest.mark.parametrize("peaks", [[], [(4, 100)], [(4, 100), (4, 120)]])
def test_fewer_than_two_batches_make_no_line(peaks: list[tuple[int, int]]) -> None:
    assert line_through(peaks) is None


def test_the_line_says_what_a_batch_takes_and_which_batch_a_budget_gives() -> None:
    line = Line(fixed_bytes=20.0, per_image_bytes=20.0)
    assert [line.at(0), line.at(3)] == [20.0, 80.0]
    assert [line.largest_within(budget) for budget in (80, 79, 20, 5)] == [3, 2, 0, 0]
    assert Line(fixed_bytes=20.0, per_image_bytes=0.0).largest_within(50) is None
    assert Line(fixed_bytes=20.0, per_image_bytes=-1.0).largest_within(50) is None


def test_a_slope_through_a_batch_is_the_nearest_to_the_others() -> None:
    assert slope_through(4, 100, {4: 100, 1: 40, 9: 200}) == 20  # a line
    assert slope_through(4, 100, {2: 60, 6: 120}) == (2 * 40 + 2 * 20) // (4 + 4)
    assert slope_through(4, 100, {}) == slope_through(4, 100, {4: 100}) == 0


def test_neither_the_fixed_part_nor_the_slope_is_negative() -> None:
    assert slope_through(4, 100, {1: 500, 9: 10}) == 0
    assert slope_through(4, 100, {1: 0, 9: 10_000}) == 100 // 4
