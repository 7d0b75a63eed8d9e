"""Where a training runs, and what is known there of memory."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from bsprobe.records.trials import Peak


@runtime_checkable
class Meter(Protocol):
    """A device's view of its own memory."""

    def reset_peak(self) -> None:
        """Start a new peak at what is held now."""

    def peak(self) -> Peak:
        """The most that was held since the last reset; waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device to train on."""

    device: torch.device
    meter: Meter

    @property
    def pins_memory(self) -> bool:
        """Whether pinned host memory makes copies to the device faster."""
        return self.device.type == "cuda"

    def peak_bytes(self) -> int:
        """Reserved by PyTorch's allocator where there is one, else allocated."""
        peak = self.meter.peak()
        return peak.allocated_bytes if peak.reserved_bytes is None else peak.reserved_bytes
