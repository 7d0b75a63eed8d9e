"""A GPU as CUDA's driver knows it, told without PyTorch and without a context on the GPU.

Run as a program with the GPU's index, which counts as PyTorch counts: the driver itself reads
`CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`. It is a program because a process that has started
the driver must not be forked any more, and the caller may want to be.

Names of functions and their arguments: cuda.h. `cuDeviceTotalMem_v2` is what `total_memory` of
`torch.cuda.get_device_properties` is filled with.
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
    """None where NVML does not answer."""

    @property
    def capacity_bytes(self) -> int:
        """The memory that a worker may hold: all but what other processes hold."""
        free = self.total_bytes if self.free_bytes is None else self.free_bytes
        return min(self.total_bytes, free)


def ask_driver(index: int) -> DriverFacts | None:
    """The facts of a GPU, from a process of its own; None where there is no driver or no GPU."""
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
    """The fields of `DriverFacts`.

    Args:
        driver: The driver's library.
        index: Of the GPU, among those that are visible.

    Raises:
        OSError: The driver refuses.
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
            raise OSError(f"CUDA's driver answered {status}")
    return {
        "name": name.value.decode(),
        "total_bytes": total.value,
        "free_bytes": _free_bytes(str(uuid.UUID(bytes=bytes(identity)))),
    }


def _free_bytes(identity: str) -> int | None:
    """Free memory of a GPU, asked as a worker asks for it."""
    import pynvml  # noqa: PLC0415 - the parent of this program needs none of it

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts_from(ctypes.CDLL(_LIBRARY), int(sys.argv[1]))))
