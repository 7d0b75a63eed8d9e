"""Selections of combinations in which any two values of two axes occur together at least once."""

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Any


def pairwise(axes: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Select rows with a value for each axis, few by a greedy choice, deterministically.

    Args:
        axes: The values of each axis, by its name.
    """
    axes = {name: tuple(values) for name, values in axes.items()}
    wanted = {
        frozenset(((one, x), (other, y))): None
        for one, other in combinations(axes, 2)
        for x, y in product(axes[one], axes[other])
    }
    rows = []
    while wanted:
        row = dict(sorted(next(iter(wanted)), key=lambda each: list(axes).index(each[0])))
        for name in axes:
            if name not in row:
                row[name] = max(axes[name], key=lambda value: _met(row, name, value, wanted))
        rows.append({name: row[name] for name in axes})
        for met in combinations(row.items(), 2):
            wanted.pop(frozenset(met), None)
    return rows


def _met(row: Mapping[str, Any], name: str, value: Any, wanted: Iterable[object]) -> int:
    """Return the number of wanted pairs that a value adds to a row."""
    return sum(frozenset(((name, value), each)) in wanted for each in row.items())
