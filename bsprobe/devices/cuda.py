"""A CUDA GPU as PyTorch sees it, whole or capped to answer as a smaller one."""

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
"""Bytes of tensors that may be left after a trial: none."""
_REHEARSED_BATCHES = (1, 2)
"""The second where one image is too few, as for BatchNorm on a map of one pixel."""
_SNAPSHOT_PROTOCOL = 4
"""As `torch.cuda.memory._dump_snapshot` pickles; the viewer unpickles by itself, 2 to 4."""


class CudaDevice:
    """Runs trials on one GPU.

    A memory limit bounds the whole process: the allocator's fraction bounds reserved memory only,
    so what lies outside it is measured and taken off first, when the kernels are loaded that one
    step of the variant calls. It caps capacity, not architecture.
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
        # Without NVML the context and other processes cannot be told apart.
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
        """The GPU and what a trial may hold of it."""
        return self._info

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that the limit left to the allocator in the last trial; None without a limit."""
        return self._budget

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial; raises what PyTorch raises when memory cannot be had."""
        report("opening")
        torch.cuda.set_device(self._device)
        if self._limit is not None:
            self._load_kernels(spec, report)
            self._cap_reserved(self._limit)
        torch.cuda.reset_accumulated_memory_stats(self._device)
        measured = run_steps(
            spec, device=self._device, meter=self, new_clock=_EventClock, report=report
        )
        stats = torch.cuda.memory_stats(self._device)
        return _with_device_facts(
            measured,
            outside=self._outside_bytes(),
            others=self._others,
            retries=stats["num_alloc_retries"],
            ooms=stats["num_ooms"],
        )

    def record_trial(self, spec: TrialSpec, report: ReportPhase, snapshot: Path) -> RecordedTrial:
        """Run a trial, as the first of its process, while PyTorch records what its allocator does.

        Args:
            spec: What to run.
            report: Told what happens now; each phase leaves a mark in the record.
            snapshot: The file to write PyTorch's memory snapshot to, record included.

        Raises:
            Exception: Whatever the trial died of; then nothing is written.
        """
        torch.cuda.set_device(self._device)
        if self._limit is not None:  # now, for it is no part of the record
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
        """Nothing to do: describing a failure takes no GPU memory."""

    def is_clean(self) -> bool:
        """True where the tensors of the last trial are gone, their memory back at the driver."""
        gc.collect()
        torch.cuda.synchronize(self._device)
        # A cuBLAS workspace belongs to a handle, not to a trial; only this drops it.
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(self._device) <= _CLEAN_WITHIN

    def reset_peak(self) -> None:
        """Start new peaks of allocated and reserved."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> Peak:
        """Peaks of allocated and reserved since the last reset."""
        torch.cuda.synchronize(self._device)
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            reserved_bytes=torch.cuda.max_memory_reserved(self._device),
        )

    def retries(self) -> int:
        """The times in this trial that the allocator gave its cache back to find room."""
        return int(torch.cuda.memory_stats(self._device)["num_alloc_retries"])

    def _open(self, index: int) -> None:
        """Create the context and run a kernel: only then is it known that the GPU can be used."""
        try:
            torch.cuda.init()
            if index >= torch.cuda.device_count():
                raise DeviceError(
                    f"there is no GPU {index}: PyTorch sees {torch.cuda.device_count()}",
                    hint="they are counted from cuda:0; CUDA_VISIBLE_DEVICES hides the others",
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
        """Run one step of the trial's variant on the whole card, once in this process.

        What its kernels and libraries take must be held before it is counted.
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
            except Exception:  # noqa: BLE001, S112 - the trial itself will say what is wrong with it
                continue
            break
        self.is_clean()
        self._rehearsed.add(small)

    def _cap_reserved(self, limit_bytes: int) -> None:
        """Let the allocator reserve what the limit leaves beside what lies outside it now."""
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
        """Held of the device now, neither by PyTorch's allocator nor by other processes."""
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        return max(0, total - free - reserved - (self._others or 0))

    def _describe(self, name: str, capability: tuple[int, int]) -> DeviceInfo:
        notes = []
        if self._others:
            notes.append(f"Other processes held {format_bytes(self._others)} of this GPU.")
        if self._others is None:
            notes.append(
                "NVML did not answer: memory of other processes counts as our own context."
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
    """CUDA events: time on the GPU, not of the Python that feeds it."""

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
"""No driver, no library, no such call, or a PyTorch that cannot name its GPU."""


class _Nvml:
    """The driver's own view of the GPU, asked before we hold any of it."""

    def __init__(self, index: int) -> None:
        self._handle: Any = None
        self.driver: str | None = None
        with suppress(*_NVML_ABSENT):
            pynvml.nvmlInit()
            self.driver = pynvml.nvmlSystemGetDriverVersion()
            # The two count GPUs differently (CUDA_VISIBLE_DEVICES), so the identity is asked for;
            # this initialises CUDA but creates no context yet.
            uuid = str(torch.cuda.get_device_properties(index).uuid).removeprefix("GPU-")
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    def free_bytes(self) -> int | None:
        """Free memory of the GPU, or None."""
        if self._handle is None:
            return None
        with suppress(*_NVML_ABSENT):
            return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).free)
        return None


def gpu_is_present() -> bool:
    """True where the machine has an NVIDIA GPU, even if PyTorch cannot use it."""
    if torch.cuda.is_available():
        return True
    with suppress(*_NVML_ABSENT):
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    return False


def _with_device_facts(
    measured: Measurement, *, outside: int, others: int | None, retries: int, ooms: int
) -> Measurement:
    return replace(
        measured,
        outside_allocator_bytes=outside,
        other_processes_bytes=others,
        allocator_retries=retries,
        allocator_ooms=ooms,
    )
