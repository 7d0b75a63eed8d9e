"""Events of a recorded history, with the state of the memory after each."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bsprobe.simulate.allocator.rules import DEFAULT_RULES

_ADDED: Final = {"S": 1, "M": 1, "F": -1, "U": -1}
"""Bytes that a driver call adds to the reserved memory, as a multiple of its size."""


class Event(NamedTuple):
    """An allocation or a free, and the state after it."""

    allocation: int
    """Number of the allocation; -1 if it was made before the recording began."""
    held_bytes: int
    """Requested bytes; negative for a free."""
    stretch: int
    """Number of the phase that was reported last; -1 if none was."""
    level: int
    """Allocated bytes, with each request rounded as the allocator rounds it."""
    reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvents:
    """The allocations and frees of a recording, in order."""

    events: tuple[Event, ...]
    ends: Mapping[int, int]
    """Number of allocations made before the free of each allocation, by its number."""

    def is_passing(self, number: int) -> bool:
        """Return whether an allocation is freed before the next one, as within a kernel."""
        return self.ends.get(number) == number + 1

    def allocations(self, stretch: int) -> list[tuple[int, int]]:
        """Return the number and size of each allocation of a stretch."""
        return [
            (each.allocation, each.held_bytes)
            for each in self.events
            if each.stretch == stretch and each.held_bytes > 0 and each.allocation >= 0
        ]


def walked(history: Mapping[str, Any], marks: Sequence[int]) -> RecordedEvents:
    """Find the allocated and reserved memory after each event of a history.

    Args:
        history: A history of format 1 (`benchmarks.validation.history`). Its initial state is
            derived from the frees and the final blocks.
        marks: The number of events before each stretch.
    """
    events: list[Event] = []
    live: dict[int, tuple[int, int]] = {}
    ends: dict[int, int] = {}
    count = 0
    driven = [_ADDED.get(code, 0) * size for code, _, size, _ in history["events"]]
    reserved = history["final_reserved"] - sum(driven)
    earlier = _earlier(history)
    level = sum(map(_rounded, earlier.values()))
    for address, size in earlier.items():
        live[address] = -1, size
        events.append(Event(-1, size, -1, level, reserved))
    for number, (code, address, size, _) in enumerate(history["events"]):
        reserved += driven[number]
        stretch = bisect_right(marks, number) - 1
        if code == "a":
            live[address] = count, size
            level += _rounded(size)
            events.append(Event(count, size, stretch, level, reserved))
            count += 1
        elif code == "f":
            allocation, held = live.pop(address)
            ends[allocation] = count
            level -= _rounded(held)
            events.append(Event(allocation, -held, stretch, level, reserved))
    return RecordedEvents(events=tuple(events), ends=ends)


def _earlier(history: Mapping[str, Any]) -> dict[int, int]:
    """Return the size of each allocation from before the recording, by address.

    These are blocks that are freed, or left at the end, without a request. The size of one that is
    left is that of its block, as the requested size is unknown.
    """
    found: dict[int, int] = {}
    live: set[int] = set()
    for code, address, size, _ in history["events"]:
        if code == "a":
            live.add(address)
        elif code == "f" and address not in live:
            found[address] = size
        elif code == "f":
            live.remove(address)
    left = {address: size for address, size, is_live in history["final_blocks"] if is_live}
    return found | {address: size for address, size in left.items() if address not in live}


def _rounded(size: int) -> int:
    unit = DEFAULT_RULES.rounding_bytes
    return -(-size // unit) * unit
