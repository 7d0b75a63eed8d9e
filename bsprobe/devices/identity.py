"""Name and capacity of the device for a request, without opening it."""

import re
import sys
from dataclasses import dataclass

from bsprobe.devices.cuda_driver import ask_driver
from bsprobe.devices.processor import cpu_device_name
from bsprobe.records.runs import DeviceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Name and capacity of a device, as in the `DeviceInfo` of the opened device."""

    name: str
    capacity_bytes: int


def identity_of(request: DeviceRequest) -> Identity | None:
    """Identify the requested device; None if it has to be opened for that.

    A GPU's name and memory come from the driver, as in PyTorch. The CPU's capacity is known only
    with a limit.
    """
    limit, name = request.memory_limit_bytes, request.device or "cuda"
    if name == "cpu":
        if limit is None or sys.platform != "linux":
            return None
        return Identity(name=cpu_device_name(), capacity_bytes=limit)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    facts = None if match is None else ask_driver(int(match[1] or 0))
    if facts is None:
        return None
    return Identity(name=facts.name, capacity_bytes=limit or facts.capacity_bytes)
