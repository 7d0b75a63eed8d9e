"""Memory of the fake GPU: the simulated allocator, and the memory outside it.

It agrees with bsprobe's prediction by construction, so its measurements are no evidence.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import bsprobe
from bsprobe.records.gpus import find_gpu
from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.expandable import ExpandableAllocator
from bsprobe.simulate.explain.snapshot import SnapshotDriver, SnapshotMemory
from bsprobe.simulate.sums import Multiprocessors
from bsprobe.simulate.timeline import Kind, Phase, Place

NAME = "FAKE NVIDIA H100 80GB HBM3"
"""Every report and record of the fake GPU contains this name."""
CAPABILITY = (9, 0)
MULTIPROCESSORS = Multiprocessors(count=132, threads=2048)
TOTAL_BYTES = 81_089 * MIB
UUID = "12345678-9abc-def0-1234-56789abcdef0"
DRIVER = "580.159.04"
LATE_BYTES = 24 * MIB
"""Size of the kernels of one more variant, which CUDA loads when they are first called."""
_STEP = str(Path(bsprobe.__file__).parent / "training" / "step.py")
FRAMES: dict[Phase, list[dict[str, Any]]] = {
    # As in PyTorch's stacks: innermost frame first, none in the threads of the autograd engine.
    Phase.SETUP: [{"filename": _STEP, "line": 1, "name": "build_task"}],
    Phase.FORWARD: [
        {"filename": "/x/site-packages/torch/nn/modules/conv.py", "line": 1, "name": "forward"},
        {"filename": _STEP, "line": 1, "name": "training_step"},
    ],
    Phase.BACKWARD: [],
    Phase.OPTIMIZER: [
        {"filename": "/x/site-packages/torch/optim/sgd.py", "line": 1, "name": "step"},
        {"filename": _STEP, "line": 1, "name": "training_step"},
    ],
    Phase.VALIDATION: [{"filename": _STEP, "line": 1, "name": "evaluation_pass"}],
}


class Card:
    """The one GPU of this process."""

    def __init__(self) -> None:
        # PyTorch imports NVML, and with it this module, before its own import is complete.
        from bsprobe.devices.simulated import _new_allocator  # noqa: PLC0415 - as above

        self.others_bytes = int(os.environ.get("FAKE_GPU_OTHERS_MIB", "4")) * MIB
        self.outside_bytes = 0
        self.driver = _Driver(self)
        self.allocator = _new_allocator(self.driver)
        self.memory = _Memory(self.allocator, self.driver)
        self.is_recording = False
        self.is_on = True
        self.broken = ""
        """The message of every call from now on; empty while the card works."""
        self.seconds = 0.0
        """The time on the card's own clock."""
        self._variants: set[object] = set()

    @property
    def free_bytes(self) -> int:
        """Return the memory that is neither reserved nor held outside the allocator, in bytes."""
        held = self.outside_bytes + self.others_bytes + self.allocator.reserved_bytes
        return TOTAL_BYTES - held

    def open(self) -> None:
        """Create the context."""
        added = int(os.environ.get("FAKE_GPU_ADDED_MIB", "0")) * MIB
        self.outside_bytes = find_gpu("H100 SXM 80GB HBM3").outside_allocator_bytes + added

    def load_kernels(self, variant: object) -> None:
        """Load the kernels of a variant that no earlier variant has loaded."""
        if variant not in self._variants:
            self._variants.add(variant)
            self.outside_bytes += LATE_BYTES

    def cap(self, fraction: float) -> None:
        """Limit the reserved memory, like `setMemoryFraction`."""
        self.allocator._limit = int(fraction * TOTAL_BYTES)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Restore the real PyTorch inside the context, for simulations."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before

    def snapshot(self) -> dict[str, Any]:
        """Return the snapshot, like `torch.cuda.memory._snapshot`."""
        self.note_snapshot()
        return {
            "segments": list(self.memory._segments()),
            "device_traces": [list(self.driver.trace) if self.is_recording else []],
            "allocator_settings": {
                "expandable_segments": isinstance(self.allocator, ExpandableAllocator)
            },
            "external_annotations": [],
        }

    def note_snapshot(self) -> None:
        """Note that a snapshot was taken, like the recording allocator."""
        self.driver.note("snapshot", 0, 0)

    def record(self, *, is_wanted: bool) -> None:
        """Start or stop recording; either discards the earlier events."""
        self.is_recording = is_wanted
        self.memory.forget()


class _Driver(SnapshotDriver):
    """Excludes the current memory outside the allocator from each allocation."""

    def __init__(self, card: Card) -> None:
        super().__init__(available_bytes=None, total_bytes=TOTAL_BYTES)
        self._card = card

    def _take(self, size: int) -> bool:
        self._available_bytes = TOTAL_BYTES - self._card.outside_bytes - self._card.others_bytes
        return super()._take(size)


class _Memory(SnapshotMemory):
    """The allocator as called by the trials, with the stacks that PyTorch would record."""

    def place(self, place: Place, kind: Kind) -> None:
        del kind
        frames = FRAMES[place.phase]
        for entry in self._driver.trace[self._placed :]:
            entry["frames"] = frames
        self._placed = len(self._driver.trace)

    def forget(self) -> None:
        """Empty the trace."""
        self._driver.trace.clear()
        self._placed = 0

    def _block(self, block: Block) -> dict[str, Any]:
        self._frames_of.setdefault(block.address, [])
        return super()._block(block)

    def give_back_all(self) -> None:
        """Free everything at the end of a trial."""
        for block in tuple(self._live.values()):
            self.free(block)


@cache
def card() -> Card:
    """Return the GPU of this process."""
    return Card()
