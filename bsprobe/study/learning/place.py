"""The device of a training, and the meter of its memory."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from bsprobe.records.trials import Peak


@runtime_checkable
class Meter(Protocol):
    """Measures the memory of a device."""

    def reset_peak(self) -> None:
        """Reset the peak to the memory in use."""

    def peak(self) -> Peak:
        """Return the peak since the last reset; waits for the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device to train on."""

    device: torch.device
    meter: Meter

    @property
    def pins_memory(self) -> bool:
        """True if pinned host memory speeds up copies to the device."""
        return self.device.type == "cuda"

    def peak_bytes(self) -> int:
        """The peak of reserved memory; of allocated memory if the device has no such allocator."""
        peak = self.meter.peak()
        return peak.held_bytes
