"""Events of steps: their order, and the step that can be played again.

A step can be played again if each storage that it keeps replaces one that it frees.
"""

import itertools
from collections.abc import Iterable, Sequence

from bsprobe.simulate.timeline import Action, Event, Handover, RecordedStorage


def handovers(
    steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]
) -> tuple[Handover, ...] | None:
    """Find the storages that the last step hands on, in the order of its frees.

    If a step frees a storage of an earlier step, playing it again frees the corresponding storage
    of the step after that one. So each such storage is handed on by one step.

    Args:
        steps: The events of all steps so far.
        storages: All storages that they allocate.

    Returns:
        Handovers after which the last step can be played again; empty if it keeps nothing. None
        if it cannot: the storages that live at its end do not correspond to those at its
        beginning, or the steps that allocated them differ up to that allocation.
    """
    born = [[subject for action, subject in step if action is Action.ALLOCATE] for step in steps]
    made_at = {
        subject: (number, ordinal)
        for number, subjects in enumerate(born)
        for ordinal, subject in enumerate(subjects)
    }
    last = len(steps) - 1
    freed = [subject for action, subject in steps[last] if action is Action.FREE]
    kept = set(born[last]) - set(freed)
    pairs: list[Handover] = []
    for subject in freed:
        number, ordinal = made_at.get(subject, (-1, 0))
        if number == last:
            continue
        # Later allocations may differ: the first step makes the optimizer's state.
        if number < 0 or not all(
            _are_alike(born[each][: ordinal + 1], born[last][: ordinal + 1], storages)
            for each in range(number, last)
        ):
            return None
        pairs += [(born[each + 1][ordinal], born[each][ordinal]) for each in range(number, last)]
        kept.discard(born[last][ordinal])
    return None if kept else tuple(pairs)


def _are_alike(
    one: Sequence[int], other: Sequence[int], storages: Sequence[RecordedStorage]
) -> bool:
    """Compare the places and sizes of two steps' allocations."""

    def looks(subjects: Sequence[int]) -> list[tuple[object, int]]:
        return [(storages[subject][0], storages[subject][2]) for subject in subjects]

    return looks(one) == looks(other)


def without_earlier(step: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events of a step without the frees of what earlier steps made."""
    born = {subject for action, subject in step if action is Action.ALLOCATE}
    return tuple(event for event in step if event[0] is not Action.FREE or event[1] in born)


def largest_step(steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]) -> int:
    """Return the number, from 1, of the last step that took more memory than all before it."""
    largest = most = now = 0
    for number, step in enumerate(steps, start=1):
        for action, subject in step:
            if action is Action.SCRATCH:
                continue
            size = storages[subject][2]
            now += size if action is Action.ALLOCATE else -size
            if now > most:
                largest, most = number, now
    return largest


def handed_on(events: Iterable[Event], handed: Sequence[Handover]) -> tuple[Event, ...]:
    """Rename the storages of events after a step by its handovers."""
    names = dict(handed)
    return tuple(
        (action, subject if action is Action.SCRATCH else names.get(subject, subject))
        for action, subject in events
    )


def in_canonical_order(events: Iterable[Event]) -> tuple[Event, ...]:
    """Sort consecutive frees: Python and autograd decide their order, not the program.

    The allocator does not depend on it: merging free neighbours gives the same blocks.
    """
    ordered: list[Event] = []
    for action, group in itertools.groupby(events, key=lambda event: event[0]):
        together = list(group)
        ordered += sorted(together) if action is Action.FREE else together
    return tuple(ordered)
