"""FABRICATED histories from the simulation, to test comparisons: nothing here ran on a GPU.

They are never written below tests/data/truth, which contains only recordings of GPUs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.explain.requests import Request
from bsprobe.simulate.timeline import Section

if TYPE_CHECKING:
    from bsprobe.simulate.allocator.blocks import Block

Marks = tuple[tuple[int, Section | None], ...]


class FixedWorkspaces(Workspaces):
    """Workspaces with fixed sizes for every convolution."""

    def __init__(self, tmp_path: Path, *sizes: int) -> None:
        super().__init__((8, 6), cache=tmp_path)
        self._sizes = sizes

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        del convolution
        return self._sizes


class _NotingDriver(SimulatedDriver):
    def __init__(self, events: list[list[Any]]) -> None:
        super().__init__()
        self._events = events

    def malloc(self, size: int) -> int | None:
        address = super().malloc(size)
        self._events.append(["S", address, size, 0])
        return address


def fabricated(requests: Sequence[Request]) -> tuple[dict[str, Any], Marks]:
    """Return a history of format 1 with exactly these requests, and the starts of its sections."""
    events: list[list[Any]] = []
    allocator = CachingAllocator(_NotingDriver(events))
    live: dict[int, Block] = {}
    marks: dict[Section, int] = {}
    for number, request in enumerate(requests):
        for other in [n for n in live if requests[n].ends_before == number]:
            block = live.pop(other)
            events.append(["f", block.address, requests[other].size_bytes, 0])
            allocator.free(block)
        marks.setdefault(request.section, len(events))
        live[number] = block = allocator.malloc(request.size_bytes)
        events.append(["a", block.address, request.size_bytes, 0])
    statistics = allocator.statistics
    final = [[b.address, b.size, 1] for b in live.values()]
    final += [[b.address, b.size, 0] for b in allocator.free_blocks]
    history = {
        "format": 1,
        "name": "fabricated",
        "provenance": {"workload": "fabricated from the simulation"},
        "settings": None,
        "expandable": False,
        "release_runs": [],
        "cap_bounds_mib": None,
        "initial": {"segments": [], "blocks": []},
        "events": events,
        "final_blocks": final,
        "final_reserved": statistics.reserved_bytes,
        "peak_allocated": statistics.peak_allocated_bytes,
        "peak_reserved": statistics.peak_reserved_bytes,
    }
    return history, tuple((start, section) for section, start in marks.items())
