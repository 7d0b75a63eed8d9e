"""Attribution of the memory of a recorded trial to modules, kinds and operators.

A recorded history has sizes and times, but no modules or kinds. The prediction has both, and makes
the same requests in the same order as far as it is right. Each recorded request takes the module
and kind of the predicted request that it is aligned with. Requests without such a counterpart are
counted as not attributed.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bsprobe.records.explanations import (
    NOT_ATTRIBUTED,
    Allocation,
    Explanation,
    RecordedTrial,
    StepTimeline,
)
from bsprobe.records.trials import Source
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.explain.alignment import common
from bsprobe.simulate.explain.events import Event, RecordedEvents, walked
from bsprobe.simulate.explain.levels import Change, sampled
from bsprobe.simulate.explain.reduction import Reduced, reduced
from bsprobe.simulate.explain.requests import PredictedRequests, Request, predicted_requests
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Kind, Phase, Section, Timeline

_NOTHING: Final[Mapping[str, Any]] = {"segments": []}
_STEPS: Final = (Section.FIRST_STEP, Section.LATER_STEP)


class _Origin(NamedTuple):
    """The origin of an allocation, as it is reported."""

    module: str
    kind: str
    operator: str
    phase: str


_EARLIER: Final = _Origin(NOT_ATTRIBUTED, NOT_ATTRIBUTED, NOT_ATTRIBUTED, Phase.SETUP)
"""The origin of allocations from before the recording."""


def explain_recorded(
    snapshot: Mapping[str, Any],
    trial: RecordedTrial,
    timeline: Timeline,
    make_playback: Callable[[CachingAllocator], Playback],
) -> Explanation:
    """Explain the memory of a recorded trial.

    Args:
        snapshot: `torch.cuda.memory._snapshot()` at the end of the trial.
        trial: The trial with its measurement and phases.
        timeline: The predicted timeline of the same step.
        make_playback: Makes a new playback of the timeline at the trial's batch on an allocator.

    Raises:
        UnknownEventError: The snapshot has unknown events, or lacks some.
    """
    measured, batch = trial.measurement, trial.spec.batch_size
    found = reduced(
        _NOTHING,
        snapshot,
        index=trial.device_index,
        marks=len(trial.phases),
        retries=measured.allocator_retries,
    )
    recorded = walked(found.history, found.marks)
    skipped = measured.steps - measured.updates_applied
    sections = [section_of(phase, skipped) for phase in trial.phases]
    predicted = predicted_requests(
        timeline, batch, (Section.SETUP, *timeline.steps(2)), make_playback
    )
    origins = _origins(recorded, found, sections, predicted)
    peak = _peak_of(recorded.events, sections)
    allocations = _allocations(recorded.events[: peak + 1], origins)
    at_peak = origins[recorded.events[peak].allocation]
    return Explanation(
        spec=trial.spec,
        source=Source.MEASURED,
        fits=True,
        capacity_bytes=trial.capacity_bytes,
        outside_allocator_bytes=measured.outside_allocator_bytes,
        phase=at_peak.phase,
        module=at_peak.module,
        operator=at_peak.operator,
        allocations=allocations,
        peak_allocated_bytes=measured.peak_allocated_bytes,
        peak_reserved_bytes=measured.peak_reserved_bytes or 0,
        scales=False,
        model=measured.model,
        timeline=_timeline(recorded.events, peak, origins, allocations),
    )


def section_of(phase: str, skipped: int) -> Section | None:
    """Return the predicted section that corresponds to a phase of a trial; None if none does.

    Args:
        phase: The phase as the trial reported it: `building`, `step 2` …
        skipped: The number of updates that a GradScaler has skipped, in the first steps. These
            steps, and the first step with an update, correspond to the first predicted step.
    """
    if phase == "building":
        return Section.SETUP
    step = re.match(r"step (\d+)", phase)
    if step is None:
        return None
    return Section.FIRST_STEP if int(step[1]) <= skipped + 1 else Section.LATER_STEP


def _origins(
    recorded: RecordedEvents,
    found: Reduced,
    sections: Sequence[Section | None],
    predicted: PredictedRequests,
) -> dict[int, _Origin]:
    """Return the origin of each allocation, by its number."""
    origins = {-1: _EARLIER}
    for stretch, section in enumerate((None, *sections), start=-1):
        theirs = recorded.allocations(stretch)
        matched = _matched(recorded, theirs, section, predicted)
        is_step = section in _STEPS
        for number, _ in theirs:
            phase = found.phases[number] if is_step else Phase.SETUP
            place = found.places[found.place_of[number]]
            unknown = f"{NOT_ATTRIBUTED}: {place}" if place else NOT_ATTRIBUTED
            nothing = _Origin(NOT_ATTRIBUTED, NOT_ATTRIBUTED, unknown, str(phase))
            origins[number] = matched.get(number, nothing)
    return origins


def _matched(
    recorded: RecordedEvents,
    theirs: Sequence[tuple[int, int]],
    section: Section | None,
    predicted: PredictedRequests,
) -> dict[int, _Origin]:
    """Return the origins of the recorded allocations of a stretch that match predicted ones.

    Between two matches, requests that differ in size are matched too if both sides have as many
    and their lifetimes agree. A temporary request at a convolution that is predicted to need no
    workspace is taken for its workspace.
    """
    ours = [(n, each) for n, each in enumerate(predicted.requests) if each.section is section]
    needless = {use.before: use for use in predicted.convolutions if not use.workspace_bytes}
    found: dict[int, _Origin] = {}
    pairs = common([each.size_bytes for _, each in ours], [size for _, size in theirs])
    start = their_start = 0
    for end, their_end in (*pairs, (len(ours), len(theirs))):
        gap, their_gap = ours[start:end], theirs[their_start:their_end]
        if len(gap) == len(their_gap):
            for (mine, request), (number, _) in zip(gap, their_gap, strict=True):
                if recorded.is_passing(number) == (request.ends_before == mine + 1):
                    found[number] = _inherited(request)
        elif not gap and len(their_gap) == 1 and end < len(ours):
            use, number = needless.get(ours[end][0]), their_gap[0][0]
            if use is not None and recorded.is_passing(number):
                place = use.origin
                found[number] = _Origin(
                    place.module, Kind.WORKSPACE, place.operator, str(place.phase)
                )
        if end < len(ours):
            found[theirs[their_end][0]] = _inherited(ours[end][1])
        start, their_start = end + 1, their_end + 1
    return found


def _inherited(request: Request) -> _Origin:
    assert request.origin is not None  # noqa: S101 - predicted requests have one
    place, kind = request.origin
    return _Origin(place.module, str(kind), place.operator, str(place.phase))


def _peak_of(events: Sequence[Event], sections: Sequence[Section | None]) -> int:
    """Return the number of the event of the steps at which most memory is allocated."""
    steps = {number for number, section in enumerate(sections) if section in _STEPS}
    numbers = [number for number, each in enumerate(events) if each.stretch in steps]
    return max(numbers, key=lambda number: events[number].level)


def _allocations(events: Sequence[Event], origins: Mapping[int, _Origin]) -> tuple[Allocation, ...]:
    sizes: Counter[_Origin] = Counter()
    for each in events:
        sizes[origins[each.allocation]] += each.held_bytes
    return tuple(
        Allocation(**origin._asdict(), size_bytes=size, per_image_bytes=0)
        for origin, size in sizes.most_common()
        if size
    )


def _timeline(
    events: Sequence[Event],
    peak: int,
    origins: Mapping[int, _Origin],
    allocations: Sequence[Allocation],
) -> StepTimeline:
    """Sample the step that holds the peak."""
    step = events[peak].stretch
    numbers = [number for number, each in enumerate(events) if each.stretch == step]
    modules: Counter[str] = Counter()
    for each in allocations:
        modules[each.module] += each.size_bytes
    changes = list(_changes(events[: numbers[-1] + 1], origins))
    return sampled(changes, numbers[0], modules)


def _changes(events: Sequence[Event], origins: Mapping[int, _Origin]) -> Iterator[Change]:
    for each in events:
        origin = origins[each.allocation]
        # Only attributed requests mark a phase: theirs follow each other as predicted.
        is_known = origin.kind != NOT_ATTRIBUTED
        yield Change(
            phase=origin.phase if is_known and each.held_bytes > 0 else "",
            kind=origin.kind,
            module=origin.module,
            held_bytes=each.held_bytes,
            inside_bytes=0,
            kept_bytes=0,
            level=each.level,
            reserved_bytes=each.reserved_bytes,
        )
