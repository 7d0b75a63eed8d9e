"""NVML with the driver's view of the fake GPU."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from bsprobe.records.units import MIB
from tests.fake_gpu.fake_card import DRIVER, TOTAL_BYTES, UUID, card
from tests.fake_gpu.stand_ins import stand_in


def install(pynvml: ModuleType) -> None:
    """Replace the functions that query the driver."""

    def memory(handle: object, version: int | None = None) -> SimpleNamespace:
        del handle
        free = card().free_bytes
        used = TOTAL_BYTES - free
        found = SimpleNamespace(total=TOTAL_BYTES, free=free, used=used)
        if version is not None:
            found.reserved = 400 * MIB
        return found

    def by_uuid(uuid: str) -> str:
        if uuid != f"GPU-{UUID}":
            raise pynvml.NVMLError_NotFound
        return uuid

    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: DRIVER,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: f"GPU-{index}",
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetMemoryInfo": memory,
    }
    for name, function in functions.items():
        stand_in(pynvml, name, function)
