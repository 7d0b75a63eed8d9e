"""A simulated step as PyTorch's own memory snapshot, for PyTorch's own viewer.

The structure is that of `torch.cuda.memory._snapshot()` (torch/csrc/cuda/memory_snapshot.cpp); it
is read by `python -m torch.cuda._memory_viz` and by https://pytorch.org/memory_viz.
"""

import pickle
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.timeline import Kind, Place

_PROTOCOL: Final = 4
"""The viewer unpickles by itself, protocols 2 to 4 (torch/utils/viz/MemoryViz.js)."""
_UNKNOWN: Final = "unknown"
"""A category that must occur where others do: the viewer else adds it, and stumbles over a slip in
doing so (`annotate_snapshot` in MemoryViz.js)."""

_Entry = dict[str, Any]


class SnapshotDriver(SimulatedDriver):
    """A simulated driver that writes its calls into a trace."""

    def __init__(self, *, available_bytes: int | None, total_bytes: int) -> None:
        super().__init__(available_bytes=available_bytes, total_bytes=total_bytes)
        self.trace: list[_Entry] = []
        self.segments: dict[int, int] = {}
        """Sizes of the segments that `malloc` has handed out, by address."""

    def malloc(self, size: int) -> int | None:
        """As `cudaMalloc`."""
        address = super().malloc(size)
        if address is not None:
            self.segments[address] = size
            self.note("segment_alloc", address, size)
        return address

    def free(self, address: int, size: int) -> None:
        """As `cudaFree`."""
        super().free(address, size)
        del self.segments[address]
        self.note("segment_free", address, size)

    def map(self, address: int, size: int) -> bool:
        """As `cuMemMap`."""
        is_granted = super().map(address, size)
        if is_granted:
            self.note("segment_map", address, size)
        return is_granted

    def unmap(self, address: int, size: int) -> None:
        """As `cuMemUnmap`."""
        self._used_bytes -= size
        self.note("segment_unmap", address, size)

    def note(self, action: str, address: int, size: int) -> None:
        """Add an entry; `SnapshotMemory.place` says later where in the program it was."""
        self.trace.append({"action": action, "addr": address, "size": size, "stream": 0})


class SnapshotMemory:
    """An allocator's methods as a program calls them, each noted in the trace of the driver.

    Args:
        allocator: Where the memory comes from.
        driver: Where the allocator's comes from.
    """

    def __init__(self, allocator: CachingAllocator, driver: SnapshotDriver) -> None:
        self._allocator = allocator
        self._driver = driver
        self._live: dict[int, Block] = {}
        self._placed = 0
        self._frames: dict[tuple[Place, Kind], list[_Entry]] = {}
        self._frames_of: dict[int, list[_Entry]] = {}

    def malloc(self, size: int) -> Block:
        """Allocate."""
        block = self._allocator.malloc(size)
        self._live[block.address] = block
        self._driver.note("alloc", block.address, size)
        return block

    def free(self, block: Block) -> None:
        """Give back what `malloc` returned."""
        address, size = block.address, block.requested
        del self._live[address]
        self._allocator.free(block)
        self._driver.note("free_requested", address, size)
        self._driver.note("free_completed", address, size)

    def empty_cache(self) -> None:
        """Return all wholly free segments to the driver."""
        self._allocator.empty_cache()

    def place(self, place: Place, kind: Kind) -> None:
        """Say where in the program everything was that has been noted since the last call."""
        frames = self._frames.setdefault((place, kind), _frames(place, kind))
        for entry in self._driver.trace[self._placed :]:
            entry["frames"] = frames
            entry["category"] = _UNKNOWN if entry["action"].startswith("segment") else str(kind)
            if entry["action"] == "alloc":
                self._frames_of[entry["addr"]] = frames
        self._placed = len(self._driver.trace)

    def pickled(self) -> bytes:
        """The snapshot of the state as it is now, with the trace of how it came about."""
        snapshot = {
            "segments": list(self._segments()),
            "device_traces": [self._driver.trace],
            "allocator_settings": {},
            "external_annotations": [],
        }
        return pickle.dumps(snapshot, protocol=_PROTOCOL)

    def _segments(self) -> Iterator[dict[str, Any]]:
        blocks = sorted(
            chain(self._live.values(), self._allocator.free_blocks), key=lambda each: each.address
        )
        for start, inside in _by_segment(blocks, sorted(self._driver.segments)):
            live = [block for block in inside if block.address in self._live]
            yield {
                "device": 0,
                "address": start,
                "total_size": sum(block.size for block in inside),
                "allocated_size": sum(block.size for block in live),
                "active_size": sum(block.size for block in live),
                "requested_size": sum(block.requested for block in live),
                "stream": 0,
                "segment_type": "small" if inside[0].pool.is_small else "large",
                "segment_pool_id": (0, 0),
                "is_expandable": start not in self._driver.segments,
                "frames": [],
                "blocks": [self._block(block) for block in inside],
            }

    def _block(self, block: Block) -> dict[str, Any]:
        is_live = block.address in self._live
        return {
            "address": block.address,
            "size": block.size,
            "requested_size": block.requested if is_live else 0,
            "state": "active_allocated" if is_live else "inactive",
            "frames": self._frames_of[block.address] if is_live else [],
        }


def _by_segment(blocks: Iterable[Block], starts: list[int]) -> Iterator[tuple[int, list[Block]]]:
    """Blocks in the order of their addresses as segments: cudaMalloc's, or mapped without a gap."""
    inside: list[Block] = []
    for block in blocks:
        if inside and not _follows(inside[-1], block, starts):
            yield inside[0].address, inside
            inside = []
        inside.append(block)
    if inside:
        yield inside[0].address, inside


def _start(block: Block, starts: list[int]) -> int:
    """The segment of a block: the last one that starts at or below it; -1 where none does."""
    index = bisect_right(starts, block.address) - 1
    return starts[index] if index >= 0 else -1


def _follows(former: Block, block: Block, starts: list[int]) -> bool:
    """Whether a block lies directly behind another of the same segment."""
    touches = former.address + former.size == block.address
    return touches and _start(former, starts) == _start(block, starts)


def _frames(place: Place, kind: Kind) -> list[_Entry]:
    """Innermost first, as the viewer writes them: file:line:name."""
    module = place.module or "(no module)"
    return [
        {"name": place.operator, "filename": module, "line": 0},
        {"name": str(kind), "filename": str(place.phase), "line": 0},
    ]
