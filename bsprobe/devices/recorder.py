"""PyTorch's own recording of what its CUDA allocator does: started, marked, stopped."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from bsprobe.records.trials import Peak


class Recorder(Protocol):
    """Records what the allocator of one device does."""

    def start(self) -> Mapping[str, Any]:
        """Begin, with a snapshot of what is there."""

    def mark(self) -> None:
        """Leave a mark in the history."""

    def stop(self) -> Mapping[str, Any]:
        """End, with a snapshot that has the history."""

    def peak(self) -> Peak:
        """The most that was held since the peaks were last reset."""


class CudaRecorder:
    """PyTorch's own recording, private but unchanged from 2.6 to 2.15."""

    def start(self) -> Mapping[str, Any]:
        """Begin; what earlier recordings saw is forgotten."""
        before: Mapping[str, Any] = torch.cuda.memory._snapshot()  # noqa: SLF001 - no public name
        torch.cuda.memory._record_memory_history("all", context="alloc", stacks="python")  # noqa: SLF001 - as above
        return before

    def mark(self) -> None:
        """Take a snapshot: the allocator notes that one was taken, and does nothing else.

        Source: `DeviceCachingAllocator::snapshot` (c10/cuda/CUDACachingAllocator.cpp).
        """
        torch.cuda.memory_snapshot()

    def stop(self) -> Mapping[str, Any]:
        """End; PyTorch forgets the history."""
        after: Mapping[str, Any] = torch.cuda.memory._snapshot()  # noqa: SLF001 - no public name
        torch.cuda.memory._record_memory_history(None)  # noqa: SLF001 - as above
        return after

    def peak(self) -> Peak:
        """Peaks of allocated and reserved since the last reset."""
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
        )
