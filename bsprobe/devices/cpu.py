"""The CPU as a device with a memory limit of its own: real steps, a real out-of-memory.

Linux only. The recipe, with what was tried and failed (`RLIMIT_AS` counts the 3 GiB of address
space that importing torch maps; `RLIMIT_DATA` alone wobbles by one batch): glibc is told to map
every larger allocation by itself (`MALLOC_MMAP_THRESHOLD_`, set by whoever starts this process),
so that memory really returns on free, and `RLIMIT_DATA` is set to what the process holds once
torch is imported and its threads run, plus the limit.
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
"""Of the memory that is available, where no limit is given: the machine must survive the probe."""
_THREADED = 300
"""Rows of a product for which OpenBLAS starts its threads."""
_CLEAN_WITHIN = 4 * MIB
"""Bytes that a trial may leave behind: the heap's small bins."""


class CpuDevice:
    """Runs trials on the CPU under a limit on what they may hold beyond the imported libraries."""

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
                hint="give less: beyond it the kernel would kill processes, perhaps others",
            )
        _, self._hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
        # Mapped and counted by the limit, but never touched: oneDNN's room for compiled kernels.
        self._unused_bytes = 0
        self._info = _describe(limit, available, asked=limit_bytes)
        self._rest()

    @property
    def info(self) -> DeviceInfo:
        """The processor and the limit."""
        return self._info

    @property
    def budget_bytes(self) -> int | None:
        """None: the CPU has no caching allocator, and the limit bounds the process itself."""
        return None

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial; raises what PyTorch raises when memory cannot be had."""
        self._unused_bytes = 0
        if spec.processes > 1:
            self._rest()  # the process group's threads are there by now, as those of torch are
        measured = run_steps(
            spec, device=torch.device("cpu"), meter=self, new_clock=_WallClock, report=report
        )
        return replace(measured, outside_allocator_bytes=self._unused_bytes)

    def lift_limit(self) -> None:
        """Let the process allocate again, so that a failure can be described."""
        resource.setrlimit(resource.RLIMIT_DATA, (self._hard_limit, self._hard_limit))

    def is_clean(self) -> bool:
        """True where the memory that the limit counts is back, and the peak can be reset.

        Where oneDNN has compiled kernels for new shapes it is not: tens of MiB of code stay, with
        which the next trial would fail a batch earlier, or later, than in a fresh process.
        """
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # the heap would keep what was freed
        left = _status_bytes("VmData") - self._resting_data
        return self._can_reset and left <= _CLEAN_WITHIN

    def reset_peak(self) -> None:
        """Start a new high-water mark, where the kernel lets us; else the old one goes on."""
        _reset_high_water()

    def peak(self) -> Peak:
        """Resident memory beyond the baseline; the CPU has no caching allocator.

        Pages of files do not count, as they do not for the limit: they are the libraries' code, of
        which a process has the more in its tables the longer it runs, and one that was forked
        begins with none.
        """
        files = _status_bytes("RssFile") - self._resting_files
        mapped = _status_bytes("VmData") - self._resting_data
        resident = _status_bytes("VmRSS") - self._baseline - files
        self._unused_bytes = max(self._unused_bytes, mapped - resident)
        peak = _status_bytes("VmHWM") - self._baseline - files
        return Peak(allocated_bytes=max(0, peak), reserved_bytes=None)

    def retries(self) -> int:
        """Always 0: the CPU has no caching allocator."""
        return 0

    def _rest(self) -> None:
        """Take what the process holds now for what it holds anyway: the limit counts from here."""
        self._baseline = _status_bytes("VmRSS")
        self._resting_data = _status_bytes("VmData")
        self._resting_files = _status_bytes("RssFile")
        limit = self._resting_data + self._info.capacity_bytes
        if self._hard_limit != resource.RLIM_INFINITY:
            limit = min(limit, self._hard_limit)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, self._hard_limit))


class _WallClock:
    """Steps on the CPU are over when they return."""

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
            hint="its memory limit is RLIMIT_DATA, which only Linux applies to mapped memory",
        )


def _load_libraries() -> None:
    """Run one small step with an optimizer before the baseline is taken.

    It starts the threads, whose stacks count as data, and imports what PyTorch imports only when
    first used (the optimizer's hooks alone load some 100 MiB of Python). The kernels that oneDNN
    compiles for a network's shapes are left to the trials: they belong to what a trial takes.
    """
    layer = torch.nn.Conv2d(8, 8, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    layer(torch.zeros(4, 8, 64, 64)).sum().backward()
    optimizer.step()
    # OpenBLAS, numpy's, takes 32 MiB for its first product, and after a fork its threads' stacks.
    square = np.ones((_THREADED, _THREADED))
    square @ square


def _reset_high_water() -> bool:
    """Reset VmHWM to what is resident now; False where the kernel refuses (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status, which counts in kB of 1024 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * KIB
    raise DeviceError(
        f"the kernel does not report {field}", hint="--device cpu needs an ordinary Linux kernel"
    )


def _available_bytes() -> int:
    """Memory that this process may still take: the machine's, or its control group's if less."""
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
