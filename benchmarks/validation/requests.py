"""Requests that a recorded program made of the allocator, in order."""

from collections.abc import Sequence

from benchmarks.validation.history import Action, History
from bsprobe.simulate.explain.requests import Request, lives_until
from bsprobe.simulate.timeline import Section


def recorded_requests(
    history: History,
    sections: Sequence[tuple[int, Section | None]],
    places: Sequence[str],
) -> tuple[Request | None, ...]:
    """Return the requests of a recorded history.

    Args:
        history: The recorded history.
        sections: The start of each section, as the number of earlier events, with the section; None
        for
            events that are not compared.
        places: The place of each request, in order; may be empty.

    Returns:
        One request for each allocation; None if it is outside all sections.
    """
    found: list[tuple[Section | None, int]] = []
    ends: dict[int, int] = {}
    live: dict[int, int] = {}
    event = 0
    for step in history.steps:
        event += len(step.calls)
        if step.action is Action.ALLOCATE:
            live[step.address] = len(found)
            found.append((_section_at(event, sections), step.size))
        elif step.action is Action.FREE and step.address in live:
            ends[live.pop(step.address)] = len(found)
        event += step.action is not Action.EMPTY_CACHE
    return tuple(
        None
        if section is None
        else Request(
            section=section,
            size_bytes=size,
            place=places[number] if places else "",
            ends_before=lives_until(ends.get(number), len(found)),
        )
        for number, (section, size) in enumerate(found)
    )


def _section_at(event: int, sections: Sequence[tuple[int, Section | None]]) -> Section | None:
    return next((section for start, section in reversed(sections) if start <= event), None)
