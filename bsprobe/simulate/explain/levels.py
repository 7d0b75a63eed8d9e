"""Samples of the memory over one step, by kind and by module, for a stacked plot."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bsprobe.records.explanations import OTHER_MODULES, Mark, Series, StepTimeline, module_at
from bsprobe.simulate.explain.peak import Moment, PeakContents, place_of, storage_of
from bsprobe.simulate.timeline import Action, Kind, Timeline

_MOST_SAMPLES = 400
"""Half a sample for each pixel of the plot's width."""
_MOST_MODULES = 7
"""The number of colours that everybody can tell apart."""

_SIGNS = {Action.ALLOCATE: 1, Action.FREE: -1, Action.HAND_ON: 0}
_ABOUT_EARLIER = (Action.FREE, Action.HAND_ON)
"""Actions on storages that an earlier phase may have allocated."""

_Key = tuple[str, str]
"""A kind and a group of modules."""


class Change(NamedTuple):
    """An event of a played or recorded step: its change, and the state after it."""

    phase: str
    """Empty for a free, as an earlier phase may have allocated the memory."""
    kind: str
    module: str
    held_bytes: int
    """Bytes that are held from now on; negative for a free."""
    inside_bytes: int
    """Bytes that are held only during the event."""
    kept_bytes: int
    """Bytes that cuBLAS keeps."""
    level: int
    """Most bytes allocated during the event."""
    reserved_bytes: int


def step_timeline(
    timeline: Timeline,
    batch: int,
    moments: Sequence[Moment],
    contents: PeakContents,
    following: Sequence[Moment] = (),
) -> StepTimeline:
    """Sample the step with the peak, at the fullest moment of each stretch of events.

    Args:
        timeline: The timeline that was played.
        batch: The batch size.
        moments: The result of `play_watched`.
        contents: The contents of the peak. The largest modules get an area each.
        following: The moments with one image more; empty if there are none.
    """
    first, last = _step_of_peak(moments)
    changes = _changes(timeline, batch, moments[:last])
    sizes = contents.bytes_by(lambda piece: piece.place.module)
    levels = [moment.level for moment in following[first:last]]
    return sampled(list(changes), first, sizes, following=levels)


def sampled(
    changes: Sequence[Change],
    first: int,
    sizes: Mapping[str, int],
    *,
    following: Sequence[int] = (),
) -> StepTimeline:
    """Sample a step at the fullest moment of each stretch of events.

    Args:
        changes: All events from the first one played or recorded to the last one of the step.
        first: The number of the step's first event.
        sizes: Bytes of each module at the peak. The largest modules get an area each.
        following: Levels of the step with one image more; empty if there are none.
    """
    last = len(changes)
    stretch = -(-(last - first) // _MOST_SAMPLES)
    at = [
        max(range(start, min(start + stretch, last)), key=lambda number: changes[number].level)
        for start in range(first, last, stretch)
    ]
    group = _module_groups(sizes)
    totals = list(_totals(changes, at, group))
    kinds = dict.fromkeys([*map(str, Kind), *(change.kind for change in changes)])
    return StepTimeline(
        events=last - first,
        marks=tuple(_marks(changes[first:])),
        at=tuple(number - first for number in at),
        reserved_bytes=tuple(changes[number].reserved_bytes for number in at),
        by_kind=_series(totals, 0, list(kinds)),
        by_module=_series(totals, 1, [*dict.fromkeys(group.values()), OTHER_MODULES]),
        next_allocated_bytes=tuple(following[number - first] for number in at) if following else (),
    )


def _step_of_peak(moments: Sequence[Moment]) -> tuple[int, int]:
    """Return the first event of the step that holds the peak, and the first event after it."""
    peak = max(moments, key=lambda moment: moment.level)
    part = peak.part or 1  # the set-up is not a step
    numbers = [number for number, moment in enumerate(moments) if moment.part == part]
    return numbers[0], numbers[-1] + 1


def _changes(timeline: Timeline, batch: int, moments: Iterable[Moment]) -> Iterator[Change]:
    for moment in moments:
        place = place_of(timeline, moment.action, moment.subject)
        kind, held = Kind.WORKSPACE, 0
        if moment.action is not Action.SCRATCH:
            storage = storage_of(timeline, moment.action, moment.subject)
            kind, held = storage.kind, _SIGNS[moment.action] * storage.size.at(batch)
        yield Change(
            phase="" if moment.action in _ABOUT_EARLIER else str(place.phase),
            kind=str(kind),
            module=place.module,
            held_bytes=held,
            inside_bytes=moment.inside,
            kept_bytes=moment.kept,
            level=moment.level,
            reserved_bytes=moment.reserved,
        )


def _marks(changes: Iterable[Change]) -> Iterator[Mark]:
    now = ""
    for number, change in enumerate(changes):
        if change.phase not in ("", now):
            now = change.phase
            yield Mark(phase=now, event=number)


def _module_groups(sizes: Mapping[str, int]) -> dict[str, str]:
    """Map each module to its area: its parent at the deepest level with few enough areas."""
    depth = 1
    while True:
        totals: Counter[str] = Counter()
        for module, size in sizes.items():
            totals[module_at(module, depth)] += size
        deeper = {module_at(module, depth + 1) for module in sizes}
        if len(deeper) > _MOST_MODULES or len(deeper) == len(totals):
            break
        depth += 1
    named = [name for name, _ in totals.most_common(_MOST_MODULES)]
    return {module: name for name in named for module in sizes if module_at(module, depth) == name}


def _totals(
    changes: Sequence[Change], at: Sequence[int], group: Mapping[str, str]
) -> Iterator[Counter[_Key]]:
    """Yield the bytes that are held at each sampled event."""
    held: Counter[_Key] = Counter()
    wanted = set(at)
    for number, change in enumerate(changes[: at[-1] + 1]):
        key = change.kind, group.get(change.module, OTHER_MODULES)
        held[key] += change.held_bytes
        if number in wanted:
            now = Counter(held)
            now[key] += change.inside_bytes
            now[str(Kind.WORKSPACE), group.get("", OTHER_MODULES)] += change.kept_bytes
            yield now


def _series(totals: Sequence[Counter[_Key]], part: int, names: Sequence[str]) -> tuple[Series, ...]:
    """Return one series for each name that ever holds memory."""

    def sizes(name: str) -> tuple[int, ...]:
        return tuple(sum(n for key, n in each.items() if key[part] == name) for each in totals)

    found = ((name, sizes(name)) for name in names)
    return tuple(Series(name=name, sizes_bytes=each) for name, each in found if any(each))
