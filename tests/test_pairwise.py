"""The selection of combinations: small, complete and deterministic."""

from itertools import combinations, product

from bsprobe.records.variants import AXES
from tests.support.pairwise import pairwise

CHOICES = {axis.field: tuple(axis.kind) for axis in AXES}


def test_any_two_values_of_two_axes_stand_together() -> None:
    rows = pairwise(CHOICES)
    for one, other in combinations(CHOICES, 2):
        together = {(row[one], row[other]) for row in rows}
        assert together == set(product(CHOICES[one], CHOICES[other]))


def test_the_rows_are_few_whole_different_and_always_the_same() -> None:
    rows = pairwise(CHOICES)
    two_largest = sorted(map(len, CHOICES.values()))[-2:]
    assert two_largest[0] * two_largest[1] <= len(rows) <= 2 * two_largest[0] * two_largest[1]
    assert [list(row) for row in rows] == [list(CHOICES)] * len(rows)
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert pairwise(CHOICES) == rows
