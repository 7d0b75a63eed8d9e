"""The kind of a device: it decides what a failure means, and what a report may compare."""

from enum import StrEnum


class DeviceKind(StrEnum):
    """The kind of device that trials run on."""

    CUDA = "cuda"
    CPU = "cpu"
    """The memory is the machine's own, under a limit."""
    SIMULATED = "simulated"
    """A GPU that is not there; its trials are predicted."""
