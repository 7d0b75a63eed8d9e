"""Events of steps: their order, and the step that can be played again.

In that one, what is kept takes the place of what is freed.
"""

import itertools
from collections.abc import Iterable, Sequence

from bsprobe.simulate.timeline import Action, Event, Handover, RecordedStorage


def handovers(
    steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]
) -> tuple[Handover, ...] | None:
    """Find what the last step hands on, in the order in which places become free.

    A step that frees what the step `age` before it has made frees, when it is played again, what
    the step after that one has made. So everything of that kind moves on by one step.

    Args:
        steps: The events of all steps so far.
        storages: All that they allocate.

    Returns:
        Handovers after which the last step can be played again, none where it leaves all as it
        found it; None where it cannot: what lives at its end is not what lived at its beginning,
        or steps that it takes things from ran otherwise until they made them.
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
        # What follows it in the step may differ: the first one makes the optimizer's state.
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
    """Compare what two steps allocate: the places and the sizes."""

    def looks(subjects: Sequence[int]) -> list[tuple[object, int]]:
        return [(storages[subject][0], storages[subject][2]) for subject in subjects]

    return looks(one) == looks(other)


def without_earlier(step: Sequence[Event]) -> tuple[Event, ...]:
    """The events of a step but for the end of what earlier steps have made."""
    born = {subject for action, subject in step if action is Action.ALLOCATE}
    return tuple(event for event in step if event[0] is not Action.FREE or event[1] in born)


def largest_step(steps: Sequence[Sequence[Event]], storages: Sequence[RecordedStorage]) -> int:
    """The number of the last step that has taken more memory than all before it, from 1 on."""
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
    """Events after a step, by the names that its handovers give to what is there."""
    names = dict(handed)
    return tuple(
        (action, subject if action is Action.SCRATCH else names.get(subject, subject))
        for action, subject in events
    )


def in_canonical_order(events: Iterable[Event]) -> tuple[Event, ...]:
    """Sort what is freed at one moment: its order is Python's and the engine's, not the program's.

    To the allocator it makes no difference: merging free neighbours ends in the same blocks.
    """
    ordered: list[Event] = []
    for action, group in itertools.groupby(events, key=lambda event: event[0]):
        together = list(group)
        ordered += sorted(together) if action is Action.FREE else together
    return tuple(ordered)
