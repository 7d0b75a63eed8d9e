"""Tests of the bounds of numbers."""

import math

import pytest

from bsprobe.records.bounds import ASKED, FIGURE, HELD, Bounds


@pytest.mark.parametrize("field", ASKED)
def test_every_number_that_options_accept_is_accepted_in_a_file(field: str) -> None:
    asked, held = ASKED[field], HELD.get(field, FIGURE)
    assert asked.least < asked.most
    assert asked.least in held
    assert (math.nextafter(asked.most, 0) if asked.most_is_open else asked.most) in held


def test_an_open_bound_and_nan_are_out_of_range() -> None:
    closed = Bounds(least=0, most=1)
    opened = Bounds(least=0, most=1, least_is_open=True, most_is_open=True)
    assert [number in closed for number in (-1, 0, 0.5, 1, 2, math.nan, math.inf)] == [
        False, True, True, True, False, False, False,
    ]  # fmt: skip
    assert [number in opened for number in (0, 5e-324, 0.5, 1, math.nan)] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert (str(closed), str(opened)) == ("0 to 1", "more than 0 to less than 1")
