"""A simulated step as a memory snapshot for PyTorch's viewer.

The structure is that of `torch.cuda.memory._snapshot()` (torch/csrc/cuda/memory_snapshot.cpp).
`python -m torch.cuda._memory_viz` and https://pytorch.org/memory_viz read it.
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
"""The viewer has its own unpickler for protocols 2 to 4 (torch/utils/viz/MemoryViz.js)."""
_UNKNOWN: Final = "unknown"
"""A category that must occur if others do: the viewer fails if it has to add it
(`annotate_snapshot` in MemoryViz.js)."""

_Entry = dict[str, Any]


class SnapshotDriver(SimulatedDriver):
    """A simulated driver that writes its calls into a trace."""

    def __init__(self, *, available_bytes: int | None, total_bytes: int) -> None:
        super().__init__(available_bytes=available_bytes, total_bytes=total_bytes)
        self.trace: list[_Entry] = []
        self.segments: dict[int, int] = {}
        """Sizes of the segments that `malloc` returned, by address."""

    def malloc(self, size: int) -> int | None:
        """Allocate a segment, as `cudaMalloc` does."""
        address = super().malloc(size)
        if address is not None:
            self.segments[address] = size
            self.note("segment_alloc", address, size)
        return address

    def free(self, address: int, size: int) -> None:
        """Free a segment, as `cudaFree` does."""
        super().free(address, size)
        del self.segments[address]
        self.note("segment_free", address, size)

    def map(self, address: int, size: int) -> bool:
        """Map pages, as `cuMemMap` does."""
        is_granted = super().map(address, size)
        if is_granted:
            self.note("segment_map", address, size)
        return is_granted

    def unmap(self, address: int, size: int) -> None:
        """Unmap pages, as `cuMemUnmap` does."""
        self._used_bytes -= size
        self.note("segment_unmap", address, size)

    def note(self, action: str, address: int, size: int) -> None:
        """Add an entry to the trace; `SnapshotMemory.place` adds its place later.

        Args:
            action: The action, as PyTorch's snapshots name it.
            address: The address of the memory.
            size: Its size in bytes.
        """
        self.trace.append({"action": action, "addr": address, "size": size, "stream": 0})


class SnapshotMemory:
    """An allocator whose calls are added to the trace of its driver.

    Args:
        allocator: The allocator that serves the calls.
        driver: The driver of the allocator.
    """

    def __init__(self, allocator: CachingAllocator, driver: SnapshotDriver) -> None:
        self._allocator = allocator
        self._driver = driver
        self._live: dict[int, Block] = {}
        self._placed = 0
        self._frames: dict[tuple[Place, Kind], list[_Entry]] = {}
        self._frames_of: dict[int, list[_Entry]] = {}

    def malloc(self, size: int) -> Block:
        """Allocate a block of at least `size` bytes."""
        block = self._allocator.malloc(size)
        self._live[block.address] = block
        self._driver.note("alloc", block.address, size)
        return block

    def free(self, block: Block) -> None:
        """Free a block that `malloc` returned."""
        address, size = block.address, block.requested
        del self._live[address]
        self._allocator.free(block)
        self._driver.note("free_requested", address, size)
        self._driver.note("free_completed", address, size)

    def empty_cache(self) -> None:
        """Return all free segments to the driver."""
        self._allocator.empty_cache()

    def place(self, place: Place, kind: Kind) -> None:
        """Set the place and kind of all entries since the last call."""
        frames = self._frames.setdefault((place, kind), _frames(place, kind))
        for entry in self._driver.trace[self._placed :]:
            entry["frames"] = frames
            entry["category"] = _UNKNOWN if entry["action"].startswith("segment") else str(kind)
            if entry["action"] == "alloc":
                self._frames_of[entry["addr"]] = frames
        self._placed = len(self._driver.trace)

    def pickled(self) -> bytes:
        """Return the snapshot of the current state, with the trace, as a pickle."""
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
    """Group blocks, sorted by address, by segment: from cudaMalloc, or mapped without a gap."""
    inside: list[Block] = []
    for block in blocks:
        if inside and not _follows(inside[-1], block, starts):
            yield inside[0].address, inside
            inside = []
        inside.append(block)
    if inside:
        yield inside[0].address, inside


def _start(block: Block, starts: list[int]) -> int:
    """Return the last start of a segment at or below a block; -1 if there is none."""
    index = bisect_right(starts, block.address) - 1
    return starts[index] if index >= 0 else -1


def _follows(former: Block, block: Block, starts: list[int]) -> bool:
    """Return whether a block directly follows another one of the same segment."""
    touches = former.address + former.size == block.address
    return touches and _start(former, starts) == _start(block, starts)


def _frames(place: Place, kind: Kind) -> list[_Entry]:
    """Return frames, innermost first; the viewer shows them as file:line:name."""
    module = place.module or "(no module)"
    return [
        {"name": place.operator, "filename": module, "line": 0},
        {"name": str(kind), "filename": str(place.phase), "line": 0},
    ]
