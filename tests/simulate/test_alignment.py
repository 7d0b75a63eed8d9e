"""Alignment compared with the textbook algorithm for longest common subsequences."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bsprobe.simulate.explain.alignment import common


def longest(one: Sequence[int], other: Sequence[int]) -> int:
    row = [0] * (len(other) + 1)
    for a in one:
        before = list(row)
        for j, b in enumerate(other):
            row[j + 1] = before[j] + 1 if a == b else max(before[j + 1], row[j])
    return row[-1]


few = st.lists(st.integers(0, 4), max_size=40)


@given(one=few, other=few)
def test_as_many_items_are_paired_as_can_be_in_order(one: list[int], other: list[int]) -> None:
    pairs = common(one, other)
    assert all(one[i] == other[j] for i, j in pairs)
    assert pairs == tuple(sorted(pairs))
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert len(pairs) == longest(one, other)


def test_equal_sequences_are_paired_item_by_item() -> None:
    assert common([3, 1, 3], [3, 1, 3]) == ((0, 0), (1, 1), (2, 2))
    assert common([], [1]) == common([1], []) == common([], []) == common([1], [2]) == ()
