"""Training steps recorded event by event by PyTorch's profiler, reduced to numbers."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CREATED, _VERSION, _DESTROYED = 2, 3, 4
"""Actions of the profiler's memory timeline in the file; a new version allocates nothing."""
_HTA_STEPS: Final = 5
_NO_CATEGORY: Final = "none"
CATEGORIES: Final = (
    "parameter",
    "optimizer state",
    "input",
    "temporary",
    "activation",
    "gradient",
    "autograd detail",
    _NO_CATEGORY,
)
"""Categories of the memory timeline, in the order of torch/profiler/_memory_profiler.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An allocated or freed block."""

    size_bytes: int
    """Size of the whole block; negative if it was freed."""
    by: str
    """The operator, or the profiler's category of the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedWorkspace:
    """Memory that an operator allocated and freed before any other event."""

    after: int
    """The number of tensors that the step had allocated before."""
    size_bytes: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """One step: the events of its tensors, and separately its workspaces."""

    events: tuple[RecordedEvent, ...]
    workspaces: tuple[RecordedWorkspace, ...]
    peak_bytes: int
    """Above the level at the step's start, workspaces included."""


def load_recorded_steps(path: Path) -> tuple[RecordedStep, ...]:
    """Read a recording; the README of data/recordings describes the files."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    if "steps" in content:
        return tuple(
            _step([RecordedEvent(size_bytes=size, by=by) for size, _, by in each["events"]])
            for each in content["steps"]
        )
    return tuple(map(_step, _steps_of_timeline(content["events"])))


def _steps_of_timeline(events: Iterable[Sequence[int]]) -> Iterator[list[RecordedEvent]]:
    """Yield the steps of a memory timeline: its parts of equal length, all alike."""
    changes = [
        RecordedEvent(size_bytes=size, by=CATEGORIES[category])
        for action, size, category in events
        if action in (_CREATED, _DESTROYED)
    ]
    length = len(changes) // _HTA_STEPS
    for start in range(0, length * _HTA_STEPS, length):
        yield changes[start : start + length]


def _step(events: Sequence[RecordedEvent]) -> RecordedStep:
    tensors: list[RecordedEvent] = []
    workspaces: list[RecordedWorkspace] = []
    level = peak = allocated = number = 0
    while number < len(events):
        event = events[number]
        if _is_workspace(event, events[number + 1 : number + 2]):
            peak = max(peak, level + event.size_bytes)
            workspaces.append(
                RecordedWorkspace(after=allocated, size_bytes=event.size_bytes, by=event.by)
            )
            number += 2
            continue
        tensors.append(event)
        allocated += event.size_bytes > 0
        level += event.size_bytes
        peak = max(peak, level)
        number += 1
    return RecordedStep(events=tuple(tensors), workspaces=tuple(workspaces), peak_bytes=peak)


def _is_workspace(event: RecordedEvent, following: Sequence[RecordedEvent]) -> bool:
    """True if a block is freed at once, by a convolution or without a name from the profiler.

    The profiler cannot name a tensor that no operator returns or takes.
    """
    is_inside = "convolution" in event.by or event.by == _NO_CATEGORY
    return (
        is_inside
        and event.size_bytes > 0
        and any(each.size_bytes == -event.size_bytes and each.by == event.by for each in following)
    )
