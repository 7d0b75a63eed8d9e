"""A CUDA GPU, with an optional memory limit."""

import gc
import pickle
import platform
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import torch

from bsprobe.devices.base import ReportPhase
from bsprobe.devices.recorder import CudaRecorder
from bsprobe.devices.stepping import rehearse, run_steps
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError
from bsprobe.records.explanations import RecordedTrial
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, Peak, Source, TrialSpec
from bsprobe.records.units import format_bytes
from bsprobe.storage.files import write_atomically

_CLEAN_WITHIN = 0
"""Bytes of tensors that may remain after a trial."""
_REHEARSED_BATCHES = (1, 2)
"""Batch sizes of the rehearsal: 2 if 1 fails, as it does for BatchNorm on a map of one pixel."""
_SNAPSHOT_PROTOCOL = 4
"""Pickle protocol of `torch.cuda.memory._dump_snapshot`; PyTorch's viewer reads 2 to 4."""


class CudaDevice:
    """Runs trials on one GPU.

    A memory limit applies to the whole process, but PyTorch can limit reserved memory only. One
    step of the variant therefore loads its kernels first; the memory outside the allocator is then
    measured and subtracted from the limit. A limit changes the capacity, not the architecture.

    Args:
        index: Index of the GPU among those that PyTorch sees.
        limit_bytes: The memory limit; None for the whole GPU.
    """

    def __init__(self, index: int, limit_bytes: int | None) -> None:
        self._device = torch.device("cuda", index)
        self._limit = limit_bytes
        self._budget: int | None = None
        self._rehearsed: set[TrialSpec] = set()
        nvml = _Nvml(index)
        self._driver = nvml.driver
        free_before = nvml.free_bytes()
        self._open(index)
        properties = torch.cuda.get_device_properties(self._device)
        self._total = properties.total_memory
        _, total = torch.cuda.mem_get_info(self._device)
        # Without NVML, the context's memory cannot be separated from that of other processes.
        self._others = None if free_before is None else max(0, total - free_before)
        if limit_bytes is not None and limit_bytes > total:
            raise DeviceError(
                f"a memory limit of {format_bytes(limit_bytes)} is more than the "
                f"{format_bytes(total)} of {properties.name}",
                hint="a limit can only make a GPU smaller",
            )
        self._info = self._describe(properties.name, (properties.major, properties.minor))

    @property
    def info(self) -> DeviceInfo:
        """The GPU and its capacity."""
        return self._info

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that the allocator could reserve in the last trial; None without a limit."""
        return self._budget

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial; exceptions of PyTorch, out of memory included, are passed on."""
        report("opening")
        torch.cuda.set_device(self._device)
        if self._limit is not None:
            self._load_kernels(spec, report)
            self._cap_reserved(self._limit)
        torch.cuda.reset_accumulated_memory_stats(self._device)
        return run_steps(
            spec, device=self._device, meter=self, new_clock=_EventClock, report=report
        )

    def completed(self, measured: Measurement) -> Measurement:
        """Return a measurement with the memory outside the allocator and the allocator's counts."""
        stats = torch.cuda.memory_stats(self._device)
        return replace(
            measured,
            outside_allocator_bytes=self._outside_bytes(),
            other_processes_bytes=self._others,
            allocator_retries=stats["num_alloc_retries"],
            allocator_ooms=stats["num_ooms"],
        )

    def record_trial(self, spec: TrialSpec, report: ReportPhase, snapshot: Path) -> RecordedTrial:
        """Run a trial, the first one of its process, while PyTorch records its allocations.

        Args:
            spec: The trial.
            report: Called when a phase begins; each phase also leaves a mark in the recording.
            snapshot: Path of the file for PyTorch's memory snapshot, which has the recording.

        Raises:
            Exception: Any exception of the trial; then no file is written.
        """
        torch.cuda.set_device(self._device)
        if self._limit is not None:  # before the recording starts, to keep it out
            self._load_kernels(spec, report)
        recorder = CudaRecorder()
        phases: list[str] = []

        def report_and_mark(phase: str) -> None:
            report(phase)
            phases.append(phase)
            recorder.mark()

        recorder.start()
        try:
            measured = self.run_trial(spec, report_and_mark)
        finally:
            found = recorder.stop()
        report("writing the snapshot")
        write_atomically(snapshot, pickle.dumps(found, protocol=_SNAPSHOT_PROTOCOL))
        return RecordedTrial(
            spec=spec,
            measurement=measured,
            phases=tuple(phases),
            device_index=self._device.index,
            capacity_bytes=self._info.capacity_bytes,
        )

    def lift_limit(self) -> None:
        """Do nothing: describing a failure takes no GPU memory."""

    def is_clean(self) -> bool:
        """Return cached memory to the driver; True if no tensor of the last trial remains."""
        gc.collect()
        torch.cuda.synchronize(self._device)
        # A cuBLAS workspace belongs to a handle and outlives the trial; only this call frees it.
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(self._device) <= _CLEAN_WITHIN

    def reset_peak(self) -> None:
        """Reset the peaks of allocated and reserved memory."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> Peak:
        """Peaks of allocated and reserved memory since the last reset."""
        torch.cuda.synchronize(self._device)
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            reserved_bytes=torch.cuda.max_memory_reserved(self._device),
        )

    def held(self) -> int:
        """Bytes of tensors that are allocated now."""
        return torch.cuda.memory_allocated(self._device)

    def retries(self) -> int:
        """Number of times in this trial that the allocator flushed its cache to allocate."""
        return int(torch.cuda.memory_stats(self._device)["num_alloc_retries"])

    def _open(self, index: int) -> None:
        """Create the context and run a kernel, to find out if the GPU can be used."""
        try:
            torch.cuda.init()
            if index >= torch.cuda.device_count():
                raise DeviceError(
                    f"there is no GPU {index}: PyTorch sees {torch.cuda.device_count()}",
                    hint="numbers start at cuda:0; CUDA_VISIBLE_DEVICES selects the visible GPUs",
                )
            (torch.ones(2, device=self._device) + 1).sum().item()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DeviceError(
                f"PyTorch {torch.__version__} cannot use this GPU: {reason}",
                hint="install a driver and a PyTorch build that support it (see pytorch.org), "
                "or probe the CPU: bsprobe run --device cpu --memory-limit 4GiB",
            ) from error

    def _load_kernels(self, spec: TrialSpec, report: ReportPhase) -> None:
        """Run one step of the trial's variant without the limit, once per process.

        The memory of its kernels and libraries must be allocated before it is measured.
        """
        small = TrialSpec(
            variant=spec.variant, batch_size=1, processes=spec.processes, ddp=spec.ddp
        )
        if small in self._rehearsed:
            return
        report("loading kernels")
        torch.cuda.set_per_process_memory_fraction(1.0, self._device)
        for batch_size in _REHEARSED_BATCHES:
            try:
                rehearse(replace(small, batch_size=batch_size), self._device)
            except Exception:  # noqa: BLE001, S112 - the trial itself raises it again
                continue
            break
        self.is_clean()
        self._rehearsed.add(small)

    def _cap_reserved(self, limit_bytes: int) -> None:
        """Limit reserved memory to the limit minus the memory outside the allocator."""
        outside = self._outside_bytes()
        self._budget = limit_bytes - outside
        if self._budget <= 0:
            raise DeviceError(
                f"a memory limit of {format_bytes(limit_bytes)} is used up by the CUDA context, "
                f"which takes {format_bytes(outside)}",
                hint="give a larger --memory-limit",
            )
        torch.cuda.set_per_process_memory_fraction(self._budget / self._total, self._device)

    def _outside_bytes(self) -> int:
        """Bytes of the GPU held by this process outside PyTorch's allocator."""
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        return max(0, total - free - reserved - (self._others or 0))

    def _describe(self, name: str, capability: tuple[int, int]) -> DeviceInfo:
        notes = []
        if self._others:
            notes.append(f"Other processes held {format_bytes(self._others)} of this GPU.")
        if self._others is None:
            notes.append(
                "NVML did not answer: memory of other processes counts as memory of this process."
            )
        if platform.system() == "Windows" or "microsoft" in platform.release().lower():
            notes.append("Windows drivers spill GPU memory to the host instead of failing.")
        return DeviceInfo(
            kind=DeviceKind.CUDA,
            name=name,
            source=Source.MEASURED,
            total_bytes=self._total,
            capacity_bytes=self._limit or self._total - (self._others or 0),
            limit_bytes=self._limit,
            other_processes_bytes=self._others,
            compute_capability=f"{capability[0]}.{capability[1]}",
            driver=self._driver,
            tf32_convolutions=torch.backends.cudnn.allow_tf32,
            tf32_matmuls=torch.backends.cuda.matmul.allow_tf32,
            notes=tuple(notes),
        )


class _EventClock:
    """Time on the GPU, measured with CUDA events."""

    def __init__(self) -> None:
        self._starts: list[torch.cuda.Event] = []
        self._ends: list[torch.cuda.Event] = []

    def start(self) -> None:
        self._starts.append(self._now())

    def stop(self) -> None:
        self._ends.append(self._now())

    def seconds(self) -> tuple[float, ...]:
        torch.cuda.synchronize()
        pairs = zip(self._starts, self._ends, strict=True)
        return tuple(start.elapsed_time(end) / 1000 for start, end in pairs)  # milliseconds

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


_NVML_ABSENT = (pynvml.NVMLError, RuntimeError, AssertionError)
"""Errors if there is no driver, library or function, or PyTorch does not know the GPU's UUID."""


class _Nvml:
    """NVML's view of the GPU, queried before this process allocates any of its memory."""

    def __init__(self, index: int) -> None:
        self._handle: Any = None
        self.driver: str | None = None
        with suppress(*_NVML_ABSENT):
            pynvml.nvmlInit()
            self.driver = pynvml.nvmlSystemGetDriverVersion()
            # NVML ignores CUDA_VISIBLE_DEVICES, so the GPU is identified by its UUID. Reading it
            # initialises CUDA but creates no context.
            uuid = str(torch.cuda.get_device_properties(index).uuid).removeprefix("GPU-")
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    def free_bytes(self) -> int | None:
        """Free memory of the GPU, or None if NVML does not answer."""
        if self._handle is None:
            return None
        with suppress(*_NVML_ABSENT):
            return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).free)
        return None


def gpu_is_present() -> bool:
    """Return whether the machine has an NVIDIA GPU, even one that PyTorch cannot use."""
    if torch.cuda.is_available():
        return True
    with suppress(*_NVML_ABSENT):
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    return False
