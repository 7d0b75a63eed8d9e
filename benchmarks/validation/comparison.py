"""Comparison of predicted requests with recorded ones: sizes, order and lifetimes.

The two sequences are aligned section by section, so that one missing request does not make all
later ones differ. If one of several neighbours of equal size is missing, sizes cannot tell which
one: one of them is named, and others may seem to live longer or shorter.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from bsprobe.records.units import format_bytes
from bsprobe.simulate.explain.alignment import Pair, common
from bsprobe.simulate.explain.requests import PredictedRequests, Request
from bsprobe.simulate.timeline import Section


class Kind(StrEnum):
    """The kind of a difference."""

    NOT_RECORDED = "predicted, not recorded"
    NOT_PREDICTED = "recorded, not predicted"
    OTHER_SIZE = "another size"
    LIVES_LONGER = "lives longer than predicted"
    LIVES_SHORTER = "lives shorter than predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One request in which the two sequences differ; at least one side is present."""

    kind: Kind
    predicted: Request | None
    recorded: Request | None

    def describe(self) -> str:
        """Format the difference as one line: place, prediction, recording."""
        either = self.predicted or self.recorded
        assert either is not None  # noqa: S101 - one of the two exists
        return f"{either.section}: {self.kind}: {_words(self.predicted)} | {_words(self.recorded)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison."""

    predicted: int
    """Number of predicted requests."""
    recorded: int
    """Number of recorded requests in the compared sections."""
    matched: int
    """Requests of equal size in the same place."""
    differences: tuple[Difference, ...]
    """In order; differences of size and presence before those of lifetime."""
    convolutions: int
    workspaces_equal: int
    """Convolutions whose workspace, or absence of one, is as predicted."""


def compare(predicted: PredictedRequests, recorded: Sequence[Request | None]) -> Comparison:
    """Align two sequences of requests and list their differences.

    Args:
        predicted: From `predicted_requests`.
        recorded: From `recorded_requests`.
    """
    ours = predicted.requests
    pairs: list[Pair] = []
    differences: list[Difference] = []
    surplus: list[Pair] = []
    for section in Section:
        for one, other in _aligned(section, ours, recorded):
            mine = None if one is None else ours[one]
            theirs = None if other is None else recorded[other]
            if one is not None and other is not None and _is_same(mine, theirs):
                pairs.append((one, other))
            else:
                differences.append(_unequal(mine, theirs))
                if mine is None and other is not None:
                    surplus.append((pairs[-1][0] + 1 if pairs else 0, other))
    pairs.sort()
    return Comparison(
        predicted=len(ours),
        recorded=sum(each is not None for each in recorded),
        matched=len(pairs),
        differences=(*differences, *_lifetimes(pairs, ours, recorded)),
        convolutions=len(predicted.convolutions),
        workspaces_equal=_equal_workspaces(predicted, pairs, surplus, recorded),
    )


def _aligned(
    section: Section, ours: Sequence[Request], recorded: Sequence[Request | None]
) -> Iterator[tuple[int | None, int | None]]:
    """Yield the numbers of aligned requests; None if one side has no such request.

    If equally many requests replace others, they are paired and differ only in size.
    """
    mine = [(n, each.size_bytes) for n, each in enumerate(ours) if each.section is section]
    theirs = [
        (n, each.size_bytes) for n, each in enumerate(recorded) if each and each.section is section
    ]
    start, their_start = 0, 0
    for end, their_end in common([size for _, size in mine], [size for _, size in theirs]):
        yield from _side_by_side(mine[start:end], theirs[their_start:their_end])
        yield mine[end][0], theirs[their_end][0]
        start, their_start = end + 1, their_end + 1
    yield from _side_by_side(mine[start:], theirs[their_start:])


def _side_by_side(
    mine: Sequence[Pair], theirs: Sequence[Pair]
) -> Iterator[tuple[int | None, int | None]]:
    for one, other in zip_longest(mine, theirs):
        yield None if one is None else one[0], None if other is None else other[0]


def _is_same(mine: Request | None, theirs: Request | None) -> bool:
    return mine is not None and theirs is not None and mine.size_bytes == theirs.size_bytes


def _unequal(mine: Request | None, theirs: Request | None) -> Difference:
    kind = Kind.OTHER_SIZE
    if mine is None:
        kind = Kind.NOT_PREDICTED
    elif theirs is None:
        kind = Kind.NOT_RECORDED
    return Difference(kind=kind, predicted=mine, recorded=theirs)


def _lifetimes(
    pairs: Sequence[Pair], ours: Sequence[Request], recorded: Sequence[Request | None]
) -> Iterator[Difference]:
    """Yield matching requests that are freed at another moment, counted in matching requests."""
    my_numbers = [one for one, _ in pairs]
    their_numbers = [other for _, other in pairs]

    def moment(request: Request | None, numbers: Sequence[int]) -> int:
        end = None if request is None else request.ends_before
        return len(numbers) if end is None else bisect.bisect_left(numbers, end)

    for one, other in pairs:
        mine, theirs = ours[one], recorded[other]
        expected, found = moment(mine, my_numbers), moment(theirs, their_numbers)
        if expected != found:
            kind = Kind.LIVES_LONGER if found > expected else Kind.LIVES_SHORTER
            yield Difference(kind=kind, predicted=mine, recorded=theirs)


def _equal_workspaces(
    predicted: PredictedRequests,
    pairs: Sequence[Pair],
    surplus: Iterable[Pair],
    recorded: Sequence[Request | None],
) -> int:
    """Count convolutions whose workspace is as predicted, or absent in both.

    A workspace is freed before the next request; other unpredicted requests are ignored.
    """
    matched = {one for one, _ in pairs}
    unexpected = [
        gap
        for gap, other in surplus
        if (theirs := recorded[other]) is not None and theirs.ends_before == other + 1
    ]
    equal = 0
    for use in predicted.convolutions:
        if use.workspace_bytes:
            equal += use.before in matched
        elif use.before in unexpected:
            unexpected.remove(use.before)
        else:
            equal += 1
    return equal


def _words(request: Request | None) -> str:
    if request is None:
        return "nothing"
    place = request.place or "backward pass"  # its threads run no Python
    return f"{format_bytes(request.size_bytes)} ({request.size_bytes} B) {place}"
