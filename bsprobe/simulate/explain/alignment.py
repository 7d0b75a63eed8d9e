"""Alignment of two sequences with the fewest differences.

difflib pairs the longest common run first, which among thousands of requests of a few sizes pairs
unrelated ones.
"""

from array import array
from collections.abc import Sequence

Pair = tuple[int, int]
"""Indices of an item in the first and in the second sequence."""


def common(one: Sequence[int], other: Sequence[int]) -> tuple[Pair, ...]:
    """Return the pairs of equal items, in order, that leave the fewest items unpaired.

    Time grows with the length times the number of differences. Source: E. W. Myers, "An O(ND)
    Difference Algorithm and Its Variations", Algorithmica 1 (1986), figure 2.
    """
    furthest = {1: 0}
    # Arrays save memory: the entries grow with the square of the differences.
    history: list[array[int]] = []
    for differences in range(len(one) + len(other) + 1):
        history.append(array("i", _before(furthest, differences)))
        for diagonal in range(-differences, differences + 1, 2):
            x = _start(furthest, diagonal, differences)
            y = x - diagonal
            while x < len(one) and y < len(other) and one[x] == other[y]:
                x, y = x + 1, y + 1
            furthest[diagonal] = x
            if x >= len(one) and y >= len(other):
                return _traced_back(history, len(one), len(other))
    raise AssertionError("an alignment always exists")  # pragma: no cover


def _before(furthest: dict[int, int], differences: int) -> list[int]:
    """Return the ends of every other diagonal with one difference less, lowest first."""
    reached = range(1 - differences, differences, 2) if differences else range(1, 2)
    return [furthest[diagonal] for diagonal in reached]


def _comes_down(furthest: dict[int, int], diagonal: int, differences: int) -> bool:
    """Return whether a diagonal is entered by skipping an item of the second sequence."""
    return diagonal == -differences or (
        diagonal != differences and furthest[diagonal - 1] < furthest[diagonal + 1]
    )


def _start(furthest: dict[int, int], diagonal: int, differences: int) -> int:
    """Return the number of items of the first sequence before a diagonal is entered."""
    if _comes_down(furthest, diagonal, differences):
        return furthest[diagonal + 1]
    return furthest[diagonal - 1] + 1


def _traced_back(history: Sequence[Sequence[int]], x: int, y: int) -> tuple[Pair, ...]:
    """Return the pairs on the path to the ends of both sequences."""
    pairs: list[Pair] = []
    for differences in range(len(history) - 1, -1, -1):
        lowest, diagonal = (1 - differences if differences else 1), x - y
        furthest = {lowest + 2 * n: reached for n, reached in enumerate(history[differences])}
        start = _start(furthest, diagonal, differences)
        while x > start:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        if _comes_down(furthest, diagonal, differences):
            y -= 1
        else:
            x -= 1
    return tuple(reversed(pairs))
