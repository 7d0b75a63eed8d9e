"""Comparison of a predicted step with a recorded one: the order and lifetimes of tensors.

A recording contains the block of each tensor, not its size. The allocator does not split a block
whose remainder would be too small, so a block may be larger than the request.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from benchmarks.validation.recorded_steps import RecordedEvent, RecordedStep
from bsprobe.simulate.allocator.rules import DEFAULT_RULES
from bsprobe.simulate.timeline import Action, Place, RecordedStorage, Recording, Section
from bsprobe.simulate.timeline import Kind as Purpose

IsMadeBy = Callable[[Place, Purpose, str], bool]
"""True if the maker of a predicted tensor (place and purpose) agrees with the recorded name."""


class Kind(StrEnum):
    """The kind of a difference."""

    NOT_RECORDED = "predicted, not recorded"
    NOT_PREDICTED = "recorded, not predicted"
    OTHER_SIZE = "another size"
    OTHER_OPERATOR = "made by another operator"
    OTHER_FREES = "others end before the next allocation"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDifference:
    """The first difference of a step."""

    kind: Kind
    allocation: int
    """Its number in the step, from 1; 0 means before the first one."""
    predicted: str
    recorded: str

    def describe(self) -> str:
        """Format the difference as lines."""
        return (
            f"allocation {self.allocation}: {self.kind}\n"
            f"    predicted {self.predicted}\n    recorded  {self.recorded}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """The comparison of a step."""

    predicted: int
    """Allocations of tensors."""
    recorded: int
    equal: int
    """Allocations before the first difference."""
    difference: StepDifference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Peaks of a step, above the level at its start."""

    recorded_bytes: int
    tensors_bytes: int
    """Predicted, without workspaces."""
    with_workspaces_bytes: int
    """Predicted, with the recorded workspaces in their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """An allocation and everything freed between it and the next one."""

    made: int | None
    """The number of the allocated tensor; None for frees before the first allocation."""
    freed: tuple[int, ...]


class StepComparer:
    """Compares the predicted steady step with recorded steps, in order.

    It remembers the block of each tensor, for tensors that end in a later step.

    Args:
        recording: The recording of the predicted program.
        is_made_by: Compares the makers of a tensor.
    """

    def __init__(self, recording: Recording, is_made_by: IsMadeBy) -> None:
        self._storages = recording.storages
        self._handovers = recording.handovers
        self._is_made_by = is_made_by
        self._groups = _predicted_groups(recording)
        self._blocks: dict[int, int] = {}

    def compare(self, step: RecordedStep) -> StepComparison:
        """Compare the predicted step with the next recorded one."""
        recorded = _groups((n, event.size_bytes > 0) for n, event in enumerate(step.events))
        difference, equal = None, 0
        for number, (mine, theirs) in enumerate(zip_longest(self._groups, recorded)):
            difference = self._difference(number, mine, theirs, step.events)
            if difference is not None:
                break
            equal = number
        for newer, older in self._handovers:
            if newer in self._blocks:
                self._blocks[older] = self._blocks.pop(newer)
        return StepComparison(
            predicted=len(self._groups) - 1,
            recorded=len(recorded) - 1,
            equal=equal,
            difference=difference,
        )

    def _difference(
        self,
        number: int,
        mine: _Group | None,
        theirs: _Group | None,
        events: Sequence[RecordedEvent],
    ) -> StepDifference | None:
        made = None if mine is None or mine.made is None else self._storages[mine.made]
        event = None if theirs is None or theirs.made is None else events[theirs.made]
        kind = self._kind(made, event)
        words = _words_of(made), _words_of_event(event)
        if kind is None and mine is not None and theirs is not None:
            if mine.made is not None and event is not None:
                self._blocks[mine.made] = event.size_bytes
            found = [-events[each].size_bytes for each in theirs.freed]
            if not self._are_freed(mine.freed, found):
                kind = Kind.OTHER_FREES
                expected = [self._blocks.get(n, _rounded(self._storages[n][2])) for n in mine.freed]
                words = f"{sorted(expected)}", f"{sorted(found)}"
            for each in mine.freed:
                self._blocks.pop(each, None)
        if kind is None:
            return None
        return StepDifference(kind=kind, allocation=number, predicted=words[0], recorded=words[1])

    def _kind(self, made: RecordedStorage | None, event: RecordedEvent | None) -> Kind | None:
        if made is None and event is None:
            return None  # before the first allocation
        if made is None:
            return Kind.NOT_PREDICTED
        if event is None:
            return Kind.NOT_RECORDED
        place, purpose, size = made
        if not could_serve(event.size_bytes, size):
            return Kind.OTHER_SIZE
        return None if self._is_made_by(place, purpose, event.by) else Kind.OTHER_OPERATOR

    def _are_freed(self, subjects: Sequence[int], found: Sequence[int]) -> bool:
        """True if exactly these blocks are freed.

        The block of a tensor made before all recorded steps is unknown; any fitting block is
        accepted.
        """
        known = Counter(self._blocks[each] for each in subjects if each in self._blocks)
        left = Counter(found)
        if len(subjects) != len(found) or known - left:
            return False
        asked = sorted(self._storages[each][2] for each in subjects if each not in self._blocks)
        return all(map(could_serve, sorted((left - known).elements()), asked))


def could_serve(block_bytes: int, asked_bytes: int) -> bool:
    """True if the allocator may use a block for a request.

    Source: `round_size` and `should_split` in c10/cuda/CUDACachingAllocator.cpp.
    """
    rounded = _rounded(asked_bytes)
    if rounded <= DEFAULT_RULES.small_request_bytes:
        return block_bytes == rounded
    return 0 <= block_bytes - rounded < DEFAULT_RULES.large_remainder_bytes


def peaks(recording: Recording, step: RecordedStep) -> Peaks:
    """Compare the peak of a recorded step with the predicted one, whose sizes are rounded up."""
    levels: list[int] = [0]
    """Bytes held after each allocation."""
    now = 0
    for action, subject in recording.sections[Section.LATER_STEP]:
        if action is Action.ALLOCATE:
            now += _rounded(recording.storages[subject][2])
            levels.append(now)
        elif action is Action.FREE:
            now -= _rounded(recording.storages[subject][2])
    inside = [levels[each.after] + each.size_bytes for each in step.workspaces]
    return Peaks(
        recorded_bytes=step.peak_bytes,
        tensors_bytes=max(levels),
        with_workspaces_bytes=max(*levels, *inside),
    )


def workspaces_by_operator(recording: Recording, step: RecordedStep) -> Counter[str]:
    """Count the workspaces by predicted operator: the one that allocated last before each."""
    makers = [
        recording.storages[subject][0].operator
        for action, subject in recording.sections[Section.LATER_STEP]
        if action is Action.ALLOCATE
    ]
    return Counter(makers[each.after - 1] for each in step.workspaces)


def _predicted_groups(recording: Recording) -> list[_Group]:
    """Return the allocations of the steady step, each with the tensors that end before the next."""
    return _groups(
        (subject, action is Action.ALLOCATE)
        for action, subject in recording.sections[Section.LATER_STEP]
        if action in (Action.ALLOCATE, Action.FREE)
    )


def _groups(events: Iterable[tuple[int, bool]]) -> list[_Group]:
    groups: list[tuple[int | None, list[int]]] = [(None, [])]
    for number, is_allocation in events:
        if is_allocation:
            groups.append((number, []))
        else:
            groups[-1][1].append(number)
    return [_Group(made=made, freed=tuple(freed)) for made, freed in groups]


def _rounded(size: int) -> int:
    return -(-size // DEFAULT_RULES.rounding_bytes) * DEFAULT_RULES.rounding_bytes


def _words_of(storage: RecordedStorage | None) -> str:
    if storage is None:
        return "nothing"
    place, _, size = storage
    return f"{_rounded(size)} B by {place.operator} in {place.module or 'the step'}"


def _words_of_event(event: RecordedEvent | None) -> str:
    return "nothing" if event is None else f"{event.size_bytes} B by {event.by or 'nobody'}"
