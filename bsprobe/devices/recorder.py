"""PyTorch's memory history: recording the CUDA allocator's events."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from bsprobe.records.trials import Peak


class Recorder(Protocol):
    """Records the events of one device's allocator."""

    def start(self) -> Mapping[str, Any]:
        """Start recording; returns a snapshot of the current state."""

    def mark(self) -> None:
        """Add a mark to the history."""

    def stop(self) -> Mapping[str, Any]:
        """Stop recording; returns a snapshot with the history."""

    def peak(self) -> Peak:
        """Peaks of allocated and reserved memory since the last reset."""


class CudaRecorder:
    """Recording with PyTorch's private functions, which are unchanged from 2.6 to 2.15."""

    def start(self) -> Mapping[str, Any]:
        """Discard earlier history and start recording; returns a snapshot of the current state."""
        before: Mapping[str, Any] = torch.cuda.memory._snapshot()  # noqa: SLF001 - no public name
        torch.cuda.memory._record_memory_history("all", context="alloc", stacks="python")  # noqa: SLF001 - as above
        return before

    def mark(self) -> None:
        """Take a snapshot, which the allocator adds to the history as an event without effect.

        Source: `DeviceCachingAllocator::snapshot` (c10/cuda/CUDACachingAllocator.cpp).
        """
        torch.cuda.memory_snapshot()

    def stop(self) -> Mapping[str, Any]:
        """Stop recording and clear the history; returns a snapshot with the history."""
        after: Mapping[str, Any] = torch.cuda.memory._snapshot()  # noqa: SLF001 - no public name
        torch.cuda.memory._record_memory_history(None)  # noqa: SLF001 - as above
        return after

    def peak(self) -> Peak:
        """Peaks of allocated and reserved memory since the last reset."""
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
        )
