"""Name and memory of a GPU from CUDA's driver, without PyTorch and without a context on the GPU.

It runs as a program with the GPU's index as its argument, because a process must not be forked
after it has initialised the driver. The index is the same as in PyTorch: the driver reads
`CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`.

Functions and their arguments are those of cuda.h. PyTorch takes `total_memory` of
`torch.cuda.get_device_properties` from `cuDeviceTotalMem_v2`.
"""

import ctypes
import json
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NAME_BYTES = 256
_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFacts:
    """Name and memory of a GPU."""

    name: str
    total_bytes: int
    free_bytes: int | None
    """Free memory; None if NVML does not answer."""

    @property
    def capacity_bytes(self) -> int:
        """Memory that a worker can use: all memory without that of other processes."""
        free = self.total_bytes if self.free_bytes is None else self.free_bytes
        return min(self.total_bytes, free)


def ask_driver(index: int) -> DriverFacts | None:
    """Query a GPU in a separate process; None if there is no driver or no such GPU."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, TypeError):
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__)), str(index)],
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
        return DriverFacts(**json.loads(done.stdout))
    return None


def facts_from(driver: Any, index: int) -> dict[str, Any]:
    """Query the fields of `DriverFacts`.

    Args:
        driver: The driver's library.
        index: Index of the GPU among the visible ones.

    Raises:
        OSError: A call to the driver fails.
    """
    device, total = ctypes.c_int(), ctypes.c_size_t()
    name, identity = ctypes.create_string_buffer(_NAME_BYTES), (ctypes.c_ubyte * 16)()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(total), device),
        driver.cuDeviceGetUuid(identity, device),
    ):
        if status != 0:
            raise OSError(f"CUDA driver error {status}")
    return {
        "name": name.value.decode(),
        "total_bytes": total.value,
        "free_bytes": _free_bytes(str(uuid.UUID(bytes=bytes(identity)))),
    }


def _free_bytes(identity: str) -> int | None:
    """Free memory of a GPU from NVML, as a worker queries it."""
    import pynvml  # noqa: PLC0415 - the parent process does not need it

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts_from(ctypes.CDLL(_LIBRARY), int(sys.argv[1]))))
