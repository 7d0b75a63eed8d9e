"""The memory of a command's processes as seen from outside: /proc, and NVML for a GPU."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pynvml

from bsprobe.records.units import KIB

_PROC: Final = Path("/proc")


@dataclass(slots=True)
class Outside:
    """The largest process of a trial on the CPU, and on a GPU, so far."""

    resident_bytes: int = 0
    """Peak of resident memory without pages of files."""
    mapped_bytes: int = 0
    """Peak of mapped data, which a limit counts whether or not it is resident."""
    gpu_bytes: int | None = None
    """The most that a process holds of one GPU; None if NVML does not say."""
    loads_torch: bool = False
    """True if a process has loaded PyTorch's libraries."""

    @property
    def unused_bytes(self) -> int:
        """Data that was mapped but not resident."""
        return max(0, self.mapped_bytes - self.resident_bytes)

    def look(self, pids: Sequence[int]) -> None:
        """Look at the host memory of processes; they may end while it looks."""
        for pid in pids:
            with suppress(OSError, KeyError):
                self._look_at(pid)

    def look_for_torch(self, pids: Sequence[int]) -> None:
        """Look for PyTorch's libraries in processes, until one has them."""
        for pid in () if self.loads_torch else pids:
            with suppress(OSError):
                maps = (_PROC / str(pid) / "maps").read_text(errors="replace")
                self.loads_torch = self.loads_torch or "libtorch" in maps

    def look_at_gpus(self, pids: Sequence[int]) -> None:
        """Look at the GPU memory of processes; a container may hide them from NVML."""
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    if process.pid in pids and process.usedGpuMemory is not None:
                        self.gpu_bytes = max(self.gpu_bytes or 0, int(process.usedGpuMemory))

    def _look_at(self, pid: int) -> None:
        fields = _status(pid)
        self.resident_bytes = max(self.resident_bytes, fields["VmHWM"] - fields["RssFile"])
        self.mapped_bytes = max(self.mapped_bytes, fields["VmData"])


def _status(pid: int) -> dict[str, int]:
    """The memory of a process by the fields of /proc/PID/status, in bytes."""
    lines = (_PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    found = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) * KIB for name, number, _ in found}
