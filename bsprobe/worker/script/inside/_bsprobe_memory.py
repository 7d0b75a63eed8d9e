"""Memory of a process: `/proc`, and the caching allocator of CUDA."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STACK = 2 << 20
"""Bytes of a thread's stack if RLIMIT_STACK is unlimited (pthread_create(3), x86-64)."""


class HostMemory:
    """Memory of this process above PyTorch's code and what PyTorch loads late.

    The same definitions as in bsprobe/devices/cpu.py, whose trials start from the same baseline.
    """

    def __init__(self) -> None:
        self._base = dict.fromkeys(("VmData", "VmRSS", "RssFile"), 0)
        self._unused = 0

    @property
    def data(self) -> int:
        """Bytes of data at the baseline."""
        return self._base["VmData"]

    def rest(self) -> None:
        """Make the memory of now the baseline."""
        now = status()
        self._base = {field: now[field] for field in self._base}

    def leave_out(self, more: dict[str, int]) -> None:
        """Raise the baseline, by bytes of each field."""
        self._base = {field: size + more.get(field, 0) for field, size in self._base.items()}

    def facts(self) -> dict[str, Any]:
        """Return the memory fields of a record."""
        now = status()
        # Pages of files are left out, as the limit does not count them.
        idle = self._base["VmRSS"] + now["RssFile"] - self._base["RssFile"]
        held = now["VmRSS"] - idle
        self._unused = max(self._unused, now["VmData"] - self.data - held)
        return {
            "device": "cpu",
            "allocated": max(0, now["VmHWM"] - idle),
            "reserved": None,
            "retries": 0,
            "ooms": 0,
            "held": max(0, held),
            "unused": self._unused,
        }


def status() -> dict[str, int]:
    """Return the memory of this process, in bytes by field of proc(5)'s status."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        fields = (line.split() for line in file)
        return {words[0][:-1]: int(words[1]) << 10 for words in fields if words[-1] == "kB"}


class CudaMemory:
    """Memory of CUDA's caching allocator in this process.

    Args:
        cuda: The module `torch.cuda`.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._peaks = dict.fromkeys(("allocated", "reserved", "retries", "ooms"), 0)
        self.device: int | None = None

    def facts(self) -> dict[str, Any] | None:
        """Return the memory fields of a record, of the device with the most reserved memory.

        Returns:
            None if this process has no memory on a device.
        """
        if not self._cuda.is_initialized():
            return None
        devices = range(self._cuda.device_count())
        every = [self._cuda.memory_stats_as_nested_dict(device) for device in devices]
        most, self.device = max(
            (each["reserved_bytes"]["all"]["peak"], at) for at, each in enumerate(every)
        )
        now = {
            "allocated": every[self.device]["allocated_bytes"]["all"]["peak"],
            "reserved": most,
            "retries": sum(each["num_alloc_retries"] for each in every),
            "ooms": sum(each["num_ooms"] for each in every),
        }
        # A program may reset PyTorch's peaks and counters.
        self._peaks = {name: max(size, now[name]) for name, size in self._peaks.items()}
        if not self._peaks["reserved"]:
            return None
        held = every[self.device]["allocated_bytes"]["all"]["current"]
        return {"device": "cuda", **self._peaks, "held": held, "unused": 0}

    def synchronize(self) -> None:
        """Wait for the device, unless its work is captured for a CUDA graph: that would fail."""
        is_capturing = getattr(self._cuda, "is_current_stream_capturing", None)
        if self.device is not None and not (is_capturing and is_capturing()):
            self._cuda.synchronize(self.device)


def thread_stacks(torch: Any) -> int:
    """Return the bytes of the stacks of the threads that PyTorch starts for its operations."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack = _STACK if soft == resource.RLIM_INFINITY else soft
    return (int(torch.get_num_threads()) - 1) * stack


def growth(before: dict[str, int]) -> dict[str, int]:
    """Return the bytes by which the fields of `status` have grown."""
    now = status()
    return {field: now[field] - size for field, size in before.items()}
