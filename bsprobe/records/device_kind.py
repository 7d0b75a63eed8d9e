"""Kinds of devices, which decide how failures are classified and which results are comparable."""

from enum import StrEnum
from typing import Final

from bsprobe.records.errors import DeviceError
from bsprobe.records.units import MIB, format_bytes

_LEAST_ON_CPU: Final = 64 * MIB


class DeviceKind(StrEnum):
    """The kind of device that trials run on."""

    CUDA = "cuda"
    CPU = "cpu"
    """The CPU with the machine's memory, under a limit."""
    SIMULATED = "simulated"
    """A GPU of the catalogue; its trials are predicted."""


def check_cpu_limit(limit_bytes: int) -> None:
    """Check that a memory limit is large enough for a trial on the CPU.

    Raises:
        DeviceError: The limit is too small.
    """
    if limit_bytes < _LEAST_ON_CPU:
        raise DeviceError(
            f"a memory limit of {format_bytes(limit_bytes)} leaves no room for any network",
            hint=f"give at least {format_bytes(_LEAST_ON_CPU)}",
        )
