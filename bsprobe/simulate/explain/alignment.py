"""The shortest way from one sequence to another: which items they share, in order.

difflib looks for the longest common run first, which among thousands of requests of a few sizes
pairs what does not belong together; the fewest differences are what a reader wants to see.
"""

from array import array
from collections.abc import Sequence

Pair = tuple[int, int]
"""Numbers of an item in the one sequence and in the other."""


def common(one: Sequence[int], other: Sequence[int]) -> tuple[Pair, ...]:
    """The pairs of equal items that leave the fewest items of both sequences unpaired.

    Time grows with the length times the number of differences. Source: E. W. Myers, "An O(ND)
    Difference Algorithm and Its Variations", Algorithmica 1 (1986), figure 2.
    """
    furthest = {1: 0}
    # Packed, for there are as many as the square of the differences.
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
    raise AssertionError("all of both left out is a way")  # pragma: no cover


def _before(furthest: dict[int, int], differences: int) -> list[int]:
    """How far the diagonals reached with one difference less, from the lowest on, every other."""
    reached = range(1 - differences, differences, 2) if differences else range(1, 2)
    return [furthest[diagonal] for diagonal in reached]


def _comes_down(furthest: dict[int, int], diagonal: int, differences: int) -> bool:
    """Whether a diagonal is entered by leaving out an item of the other sequence."""
    return diagonal == -differences or (
        diagonal != differences and furthest[diagonal - 1] < furthest[diagonal + 1]
    )


def _start(furthest: dict[int, int], diagonal: int, differences: int) -> int:
    """How much of the one sequence is behind where a diagonal is entered."""
    if _comes_down(furthest, diagonal, differences):
        return furthest[diagonal + 1]
    return furthest[diagonal - 1] + 1


def _traced_back(history: Sequence[Sequence[int]], x: int, y: int) -> tuple[Pair, ...]:
    """The pairs on the way that led to the end of both sequences."""
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
