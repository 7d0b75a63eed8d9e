"""The kind of a device: it decides what a failure means, and what a report may compare."""

from enum import StrEnum
from typing import Final

from bsprobe.records.errors import DeviceError
from bsprobe.records.units import MIB, format_bytes

_LEAST_ON_CPU: Final = 64 * MIB


class DeviceKind(StrEnum):
    """The kind of device that trials run on."""

    CUDA = "cuda"
    CPU = "cpu"
    """The memory is the machine's own, under a limit."""
    SIMULATED = "simulated"
    """A GPU that is not there; its trials are predicted."""


def check_cpu_limit(limit_bytes: int) -> None:
    """Refuse a memory limit under which nothing runs on the CPU.

    Raises:
        DeviceError: It is too small.
    """
    if limit_bytes < _LEAST_ON_CPU:
        raise DeviceError(
            f"a memory limit of {format_bytes(limit_bytes)} leaves no room for any network",
            hint=f"give at least {format_bytes(_LEAST_ON_CPU)}",
        )
