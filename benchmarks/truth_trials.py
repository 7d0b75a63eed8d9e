"""Trials on this machine's GPU, recorded in this process: what `record_truth.py` starts."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from truth_plan import Configuration
from truth_records import (
    SCHEMA_VERSION,
    Machine,
    TruthTrial,
    folder_of,
    load_machine,
    save_machine,
    save_trial,
    trial_path,
)

from bsprobe.devices.base import Device
from bsprobe.devices.recorder import CudaRecorder, Recorder
from bsprobe.environment import describe_environment
from bsprobe.errors import BsprobeError, FileError
from bsprobe.failures import Certainty, Outcome
from bsprobe.messages import Ready
from bsprobe.simulate.reduction import reduced
from bsprobe.trials import Failure, Measurement, Peak
from bsprobe.worker import describe_failure

START_AGAIN = 3
"""Exit status of a process in which no further trial must run."""
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def record_here(
    plan: Sequence[Configuration], root: Path, *, deadline: float, after: Callable[[], None]
) -> int:
    """Open the GPU and record what is missing; returns the exit status.

    Args:
        plan: What is wanted.
        root: The folder of all GPUs.
        deadline: By `time.monotonic()`.
        after: Called after each configuration.

    Raises:
        DeviceError: The GPU cannot be used.
        FileError: The folder belongs to other software, or cannot be written.
    """
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - tests bring other devices

    device = CudaDevice(0, None)
    folder = folder_of(root, device.info.name)
    device.is_clean()  # opening it leaves a cached segment behind
    note_machine(folder, machine_of(device, outside_bytes=_outside_at_rest()))
    return record_missing(
        plan, folder, device=device, recorder=CudaRecorder(), deadline=deadline, after=after
    )


def record_missing(
    plan: Sequence[Configuration],
    folder: Path,
    *,
    device: Device,
    recorder: Recorder,
    deadline: float,
    after: Callable[[], None] = lambda: None,
) -> int:
    """Record every configuration that has no file yet, while there is time.

    Returns:
        0, or `START_AGAIN` where a trial has left something behind in this process.
    """
    longest = 0.0
    for configuration in plan:
        path = trial_path(folder, configuration.name)
        if path.exists():
            continue
        if time.monotonic() + longest > deadline:
            print("The time is up.", flush=True)
            return 0
        trial, history = record(configuration, device, recorder)
        save_trial(path, trial, history)
        after()
        longest = max(longest, trial.wall_seconds)
        print(f"{configuration.name}: {trial.outcome}, {trial.wall_seconds:.1f} s", flush=True)
        if not _is_clean(device):
            return START_AGAIN
    return 0


def record(
    configuration: Configuration, device: Device, recorder: Recorder
) -> tuple[TruthTrial, dict[str, Any] | None]:
    """Run one configuration.

    Returns:
        The trial and, where it is wanted, the allocator's history, format 1.

    Raises:
        UnknownEventError: The history cannot be reduced.
    """
    started_at, start = datetime.now(UTC), time.monotonic()
    torch.manual_seed(configuration.spec.seed)  # of the weights: which fp16 updates are skipped
    phases: list[str] = []

    def report(phase: str) -> None:
        phases.append(phase)
        if configuration.has_history:
            recorder.mark()

    before = recorder.start() if configuration.has_history else {}
    measurement, failure = None, None
    try:
        measurement = device.run_trial(configuration.spec, report)
    except BsprobeError:
        raise  # nobody's bug, and no verdict: the recording must stop and say so
    except Exception as error:  # noqa: BLE001 - as in the worker: any failure becomes data
        outcome, failure = describe_failure(error, phases[-1] if phases else "opening")
    else:
        has_retried = measurement.allocator_retries > 0
        outcome = Outcome.FITS_WITH_RETRIES if has_retried else Outcome.FITS
    trial = TruthTrial(
        schema_version=SCHEMA_VERSION,
        name=configuration.name,
        spec=configuration.spec,
        outcome=outcome,
        measurement=measurement,
        failure=failure,
        started_at=started_at.isoformat(timespec="seconds"),
        wall_seconds=round(time.monotonic() - start, 3),
        torch=torch.__version__,
        allocator_settings=next(filter(None, map(os.environ.get, _ALLOCATOR_SETTINGS)), ""),
    )
    if not configuration.has_history:
        return trial, None
    peak = _peak(measurement, recorder)
    found = reduced(
        before,
        recorder.stop(),
        marks=len(phases),
        retries=measurement.allocator_retries if measurement is not None else 1,
    )
    history = {
        **found.history,
        "name": configuration.name,
        "provenance": {
            "recorded_by": "benchmarks/record_truth.py",
            "workload": configuration.name,
            "torch": torch.__version__,
            "device_index": 0,
        },
        "peak_allocated": peak.allocated_bytes,
        "peak_reserved": peak.reserved_bytes,
    }
    marks = tuple(zip(found.marks, phases, strict=True))
    return replace(trial, marks=marks, places=found.places, place_of=found.place_of), history


def died(configuration: Configuration, *, status: int, last_words: str) -> TruthTrial:
    """The record of a trial whose process died under it."""
    words = last_words.strip().splitlines()
    return TruthTrial(
        schema_version=SCHEMA_VERSION,
        name=configuration.name,
        spec=configuration.spec,
        outcome=Outcome.FAILED,
        measurement=None,
        failure=Failure(
            message=words[-1] if words else f"exit status {status}",
            certainty=Certainty.CERTAIN,
            evidence=f"exit status {status}",
            phase="unknown",
        ),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_seconds=0.0,
        torch=torch.__version__,
        allocator_settings="",
    )


def machine_of(device: Device, *, outside_bytes: int) -> Machine:
    """What is to be known of the machine."""
    cudnn = torch.backends.cudnn.version()
    ready = Ready(
        device=device.info,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        cpu_threads=torch.get_num_threads(),
    )
    return Machine(
        schema_version=SCHEMA_VERSION,
        device=device.info,
        environment=describe_environment(ready, "benchmarks/record_truth.py"),
        outside_at_rest_bytes=outside_bytes,
        properties=_torch_properties(),
        cudnn_properties=_cudnn_properties(),
    )


def note_machine(folder: Path, machine: Machine) -> None:
    """Write what the machine is, unless that is known.

    Raises:
        FileError: The folder was recorded with other versions: their figures must not mix.
    """
    known = load_machine(folder)
    if known is None:
        save_machine(folder, machine)
    elif _versions(known) != _versions(machine):
        raise FileError(
            f"{folder} was recorded with {_versions(known)}, this is {_versions(machine)}",
            hint="give another --out",
        )


def _versions(machine: Machine) -> str:
    environment = machine.environment
    return f"PyTorch {environment.torch}, CUDA {environment.cuda}, cuDNN {environment.cudnn}"


def _peak(measurement: Measurement | None, recorder: Recorder) -> Peak:
    """Over the whole trial; of one that failed, since its last step but one began."""
    if measurement is None:
        return recorder.peak()
    return Peak(
        allocated_bytes=measurement.peak_allocated_bytes,
        reserved_bytes=measurement.peak_reserved_bytes,
    )


def _is_clean(device: Device) -> bool:
    try:
        return device.is_clean()
    except RuntimeError as error:  # CUDA's errors stick to the process
        print(f"the GPU does not go on in this process: {error}", file=sys.stderr)
        return False


def _outside_at_rest() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _torch_properties() -> tuple[tuple[str, str], ...]:
    if not torch.cuda.is_available():
        return ()
    properties = torch.cuda.get_device_properties(0)
    values = ((name, getattr(properties, name)) for name in dir(properties) if name[0] != "_")
    return tuple((name, str(value)) for name, value in values if isinstance(value, int | str))


def _cudnn_properties() -> str:
    try:
        import cudnn  # noqa: PLC0415 - optional
    except ImportError:
        return "nvidia-cudnn-frontend is not installed"
    try:
        return json.dumps(json.loads(cudnn.create_device_properties(0).serialize()))
    except (RuntimeError, AttributeError, ValueError) as error:
        return f"cuDNN does not say: {error}"
