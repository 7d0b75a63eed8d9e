"""Memory over one step as a few hundred samples: by kind and by module, for a stacked picture."""

from collections import Counter
from collections.abc import Iterable, Sequence

from bsprobe.explanation import OTHER_MODULES, Mark, Series, StepTimeline, module_at
from bsprobe.simulate.peak import Moment, PeakContents, place_of
from bsprobe.simulate.timeline import Action, Kind, Phase, Timeline

_MOST_SAMPLES = 400
"""Half a sample for each pixel of a picture's width."""
_MOST_MODULES = 7
"""As many as there are colours that everybody can tell apart."""

_Key = tuple[str, str]
"""A kind and a group of modules."""


def step_timeline(
    timeline: Timeline,
    batch: int,
    moments: Sequence[Moment],
    contents: PeakContents,
    following: Sequence[Moment] = (),
) -> StepTimeline:
    """The step in which the peak is, sampled at the fullest moment of each stretch.

    Args:
        timeline: What was played.
        batch: At which batch size.
        moments: From `play_watched`.
        contents: What is there at the peak: the largest modules get an area of their own.
        following: The same playing with one image more, or nothing.
    """
    first, last = _step_of_peak(moments)
    stretch = -(-(last - first) // _MOST_SAMPLES)
    at = [
        max(range(start, min(start + stretch, last)), key=lambda number: moments[number].level)
        for start in range(first, last, stretch)
    ]
    group = _module_groups(contents)
    totals = list(_totals(timeline, batch, moments, at, group))
    return StepTimeline(
        events=last - first,
        marks=tuple(_marks(timeline, moments[first:last])),
        at=tuple(number - first for number in at),
        reserved_bytes=tuple(moments[number].reserved for number in at),
        by_kind=_series(totals, 0, [str(kind) for kind in Kind]),
        by_module=_series(totals, 1, [*dict.fromkeys(group.values()), OTHER_MODULES]),
        next_allocated_bytes=tuple(following[number].level for number in at) if following else (),
    )


def _step_of_peak(moments: Sequence[Moment]) -> tuple[int, int]:
    """The first event of the step that holds the peak, and the first behind it."""
    peak = max(moments, key=lambda moment: moment.level)
    part = peak.part or 1  # the set-up is no step
    numbers = [number for number, moment in enumerate(moments) if moment.part == part]
    return numbers[0], numbers[-1] + 1


def _marks(timeline: Timeline, moments: Iterable[Moment]) -> Iterable[Mark]:
    now: Phase | None = None
    for number, moment in enumerate(moments):
        if moment.action is Action.FREE:
            continue  # it may free what an earlier phase has allocated
        phase = place_of(timeline, moment.action, moment.subject).phase
        if phase is not now:
            now = phase
            yield Mark(phase=str(phase), event=number)


def _module_groups(contents: PeakContents) -> dict[str, str]:
    """Module to the name of its area: top-level modules, the largest split while names suffice."""
    sizes = contents.bytes_by(lambda piece: piece.place.module)
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
    timeline: Timeline,
    batch: int,
    moments: Sequence[Moment],
    at: Sequence[int],
    group: dict[str, str],
) -> Iterable[Counter[_Key]]:
    """The bytes that are held at each sampled event."""
    held: Counter[_Key] = Counter()
    wanted = set(at)

    def key(moment: Moment, kind: Kind) -> _Key:
        module = place_of(timeline, moment.action, moment.subject).module
        return str(kind), group.get(module, OTHER_MODULES)

    for number, moment in enumerate(moments[: at[-1] + 1]):
        if moment.action is not Action.SCRATCH:
            storage = timeline.storages[moment.subject]
            sign = 1 if moment.action is Action.ALLOCATE else -1
            held[key(moment, storage.kind)] += sign * storage.size.at(batch)
        if number in wanted:
            now = Counter(held)
            now[key(moment, Kind.WORKSPACE)] += moment.inside
            now[str(Kind.WORKSPACE), group.get("", OTHER_MODULES)] += moment.kept
            yield now


def _series(totals: Sequence[Counter[_Key]], part: int, names: Sequence[str]) -> tuple[Series, ...]:
    """One series a name, those that are never there left out."""

    def sizes(name: str) -> tuple[int, ...]:
        return tuple(sum(n for key, n in each.items() if key[part] == name) for each in totals)

    found = ((name, sizes(name)) for name in names)
    return tuple(Series(name=name, sizes_bytes=each) for name, each in found if any(each))
