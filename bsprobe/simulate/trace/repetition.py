"""Events of steps: their order, and the step that can be played again.

A step can be played again if each storage that it keeps replaces one that it frees.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from bsprobe.simulate.timeline import Action, Event, Handover, RecordedStorage


def handovers(
    steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]
) -> tuple[Handover, ...] | None:
    """Find the storages that the last step hands on, in the order of its frees.

    Args:
        steps: The events of all steps so far.
        storages: All storages that they allocate.

    Returns:
        Handovers after which the last step can be played again; empty if it keeps nothing. None
        if it cannot: the storages that live at its end do not correspond to those at its
        beginning, or the steps that allocated them differ up to that allocation.
    """
    found = replacements(steps, storages)
    return None if found is None or found[1] else found[0]


def replacements(
    steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]
) -> tuple[tuple[Handover, ...], frozenset[int]] | None:
    """Find the storages that replace those that the last step frees, and those that it adds.

    If a step frees a storage of an earlier step, playing it again frees the corresponding storage
    of the step after that one. So each such storage is handed on by one step.

    Args:
        steps: As in `handovers`.
        storages: As in `handovers`.

    Returns:
        Handovers, and the storages that the step keeps in addition. None if a storage that it
        frees has no counterpart.
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
    return tuple(pairs), frozenset(kept)


def _are_alike(
    one: Sequence[int], other: Sequence[int], storages: Sequence[RecordedStorage]
) -> bool:
    """Compare the places and sizes of two steps' allocations."""

    def looks(subjects: Sequence[int]) -> list[tuple[object, int]]:
        return [(storages[subject][0], storages[subject][2]) for subject in subjects]

    return looks(one) == looks(other)


def with_handovers(
    steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]
) -> tuple[tuple[Handover, ...], tuple[Event, ...]]:
    """Return the handovers of the last step, and its events for playing it again and again.

    What a step keeps in addition to what it replaces stays allocated each time. If a storage that
    it frees has no counterpart, all frees of what earlier steps made are left out.

    Args:
        steps: As in `handovers`.
        storages: As in `handovers`.
    """
    found, last = replacements(steps, storages), steps[-1]
    if found is None:
        born = {subject for action, subject in last if action is Action.ALLOCATE}
        return (), tuple(e for e in last if e[0] is not Action.FREE or e[1] in born)
    handed, _ = found
    return handed, (*last, *((Action.HAND_ON, number) for number in range(len(handed))))


def largest_step(steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]) -> int:
    """Return the number, from 1, of the last step that took more memory than all before it."""
    largest = most = now = 0
    for number, step in enumerate(steps, start=1):
        for change in _changes(step, storages):
            now += change
            if now > most:
                largest, most = number, now
    return largest


def bytes_after(steps: Iterable[Sequence[Event]], storages: Sequence[RecordedStorage]) -> list[int]:
    """Return the bytes of tensors after each step, in addition to those before the first."""
    return list(itertools.accumulate(sum(_changes(step, storages)) for step in steps))


def _changes(step: Sequence[Event], storages: Sequence[RecordedStorage]) -> Iterator[int]:
    """The bytes that each event of a step allocates; negative if it frees."""
    for action, subject in step:
        if action is not Action.SCRATCH:
            size = storages[subject][2]
            yield size if action is Action.ALLOCATE else -size


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
