"""The CPU as a device with a memory limit that trials can exceed.

Linux only. `RLIMIT_DATA` is set to the data that the process holds once torch is imported and its
threads run, plus the limit. The parent process sets `MALLOC_MMAP_THRESHOLD_`, so that glibc maps
each larger allocation separately and returns it to the kernel on free; without it, the largest
batch varies by one. `RLIMIT_AS` is not used, because importing torch maps 3 GiB of address space.
"""

import ctypes
import gc
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bsprobe.devices.base import ReportPhase
from bsprobe.devices.processor import cpu_device_name
from bsprobe.devices.stepping import run_steps
from bsprobe.records.device_kind import DeviceKind, check_cpu_limit
from bsprobe.records.errors import DeviceError
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, Peak, Source, TrialSpec
from bsprobe.records.units import KIB, MIB, format_bytes

_DEFAULT_SHARE = 0.8
"""Default limit as a share of the available memory; the rest keeps the machine usable."""
_THREADED = 300
"""Rows of a square matrix whose product makes OpenBLAS start its threads."""
_CLEAN_WITHIN = 4 * MIB
"""Bytes that may remain after a trial, in the heap's small bins."""


class CpuDevice:
    """Runs trials on the CPU with a limit on their memory, without the imported libraries.

    Args:
        limit_bytes: The limit; None for 80 % of the available memory.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        _require_linux()
        _load_libraries()
        self._can_reset = _reset_high_water()
        available = _available_bytes()
        limit = int(available * _DEFAULT_SHARE) if limit_bytes is None else limit_bytes
        check_cpu_limit(limit)
        if limit > available:
            raise DeviceError(
                f"a memory limit of {format_bytes(limit)} is more than the "
                f"{format_bytes(available)} that this machine has available",
                hint="give a smaller --memory-limit",
            )
        _, self._hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
        # Mapped and counted by the limit, but not resident: oneDNN's space for compiled kernels.
        self._unused_bytes = 0
        self._info = _describe(limit, available, asked=limit_bytes)
        self._rest()

    @property
    def info(self) -> DeviceInfo:
        """The processor and the limit."""
        return self._info

    @property
    def budget_bytes(self) -> int | None:
        """None: the CPU has no caching allocator."""
        return None

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial; exceptions of PyTorch, out of memory included, are passed on."""
        self._unused_bytes = 0
        if spec.processes > 1:
            self._rest()  # the threads of the process group belong to the baseline too
        return run_steps(
            spec, device=torch.device("cpu"), meter=self, new_clock=_WallClock, report=report
        )

    def completed(self, measured: Measurement) -> Measurement:
        """Return a measurement with the memory that the limit counts but that is not resident."""
        return replace(measured, outside_allocator_bytes=self._unused_bytes)

    def lift_limit(self) -> None:
        """Remove the memory limit, so that a failure can be described."""
        resource.setrlimit(resource.RLIMIT_DATA, (self._hard_limit, self._hard_limit))

    def is_clean(self) -> bool:
        """Return whether memory is back at the baseline and the peak can be reset.

        oneDNN keeps the kernels that it compiled for new shapes, tens of MiB. With these the next
        trial could fail at another batch than in a fresh process.
        """
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # otherwise the heap keeps freed memory
        left = _status_bytes("VmData") - self._resting_data
        return self._can_reset and left <= _CLEAN_WITHIN

    def reset_peak(self) -> None:
        """Reset the high-water mark, if the kernel permits it."""
        _reset_high_water()

    def peak(self) -> Peak:
        """Peak of resident memory above the baseline, as allocated bytes; reserved is None.

        Pages of files are left out, as the limit does not count them. They hold the libraries'
        code; their number grows while a process runs and is zero in a forked process.
        """
        files = _status_bytes("RssFile") - self._resting_files
        mapped = _status_bytes("VmData") - self._resting_data
        resident = _status_bytes("VmRSS") - self._baseline - files
        self._unused_bytes = max(self._unused_bytes, mapped - resident)
        peak = _status_bytes("VmHWM") - self._baseline - files
        return Peak(allocated_bytes=max(0, peak), reserved_bytes=None)

    def held(self) -> int:
        """Resident bytes above the baseline, as in `peak`."""
        files = _status_bytes("RssFile") - self._resting_files
        return max(0, _status_bytes("VmRSS") - self._baseline - files)

    def retries(self) -> int:
        """Always 0: the CPU has no caching allocator."""
        return 0

    def _rest(self) -> None:
        """Make the memory that the process holds now the baseline, and set the limit above it."""
        self._baseline = _status_bytes("VmRSS")
        self._resting_data = _status_bytes("VmData")
        self._resting_files = _status_bytes("RssFile")
        limit = self._resting_data + self._info.capacity_bytes
        if self._hard_limit != resource.RLIM_INFINITY:
            limit = min(limit, self._hard_limit)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, self._hard_limit))


class _WallClock:
    """Wall-clock time; CPU steps are synchronous."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds.append(time.perf_counter() - self._started)

    def seconds(self) -> tuple[float, ...]:
        return tuple(self._seconds)


def _require_linux() -> None:
    if sys.platform != "linux":
        raise DeviceError(
            f"--device cpu needs Linux, and this is {sys.platform}",
            hint="predict for a GPU instead: bsprobe run --gpu 'RTX 3090'",
        )


def _load_libraries() -> None:
    """Run one small step with an optimizer before the baseline is taken.

    The step starts the threads, whose stacks count as data, and triggers PyTorch's lazy imports
    (the optimizer's hooks alone load about 100 MiB of Python). Kernels that oneDNN compiles for a
    network's shapes count as memory of the trial.
    """
    layer = torch.nn.Conv2d(8, 8, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    layer(torch.zeros(4, 8, 64, 64)).sum().backward()
    optimizer.step()
    # numpy's OpenBLAS takes 32 MiB for its first product, and its threads' stacks after a fork.
    square = np.ones((_THREADED, _THREADED))
    square @ square


def _reset_high_water() -> bool:
    """Reset VmHWM to VmRSS; False if the kernel does not permit it (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status, converted from kB (1024 bytes) to bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * KIB
    raise DeviceError(
        f"/proc/self/status has no {field}", hint="run on a Linux kernel that reports it"
    )


def _available_bytes() -> int:
    """Available memory of the machine, or of the process's control group if that is less."""
    available = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * KIB
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        return available


def _describe(limit: int, available: int, *, asked: int | None) -> DeviceInfo:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    default = (
        f"No --memory-limit was given: {_DEFAULT_SHARE:.0%} of the "
        f"{format_bytes(available)} that were available is the limit."
    )
    notes = () if asked is not None else (default,)
    return DeviceInfo(
        kind=DeviceKind.CPU,
        name=cpu_device_name(),
        source=Source.MEASURED,
        total_bytes=os.sysconf("SC_PHYS_PAGES") * page_bytes,
        capacity_bytes=limit,
        limit_bytes=limit,
        notes=notes,
    )
