"""Trials on this machine's GPU, run and recorded in this process, for `record_truth.py`."""

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.truth_history import Recording, keep_raw, peak_of, with_history
from benchmarks.truth_machine import machine_of, note_machine, outside_at_rest
from benchmarks.truth_plan import Configuration
from benchmarks.truth_records import (
    SCHEMA_VERSION,
    TruthTrial,
    folder_of,
    load_trial,
    save_trial,
    trial_path,
)
from bsprobe.devices.base import Device
from bsprobe.devices.failing import describe_failure
from bsprobe.devices.recorder import CudaRecorder, Recorder
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import FileError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.trials import Failure

START_AGAIN = 3
"""Exit status of a process that must not run another trial."""
STOPPED = 4
"""Exit status of a process in which too many trials in a row failed."""
MOST_IN_A_ROW = 3
"""Failures, or histories that cannot be reduced, in a row: probably all trials of the process are
affected, so the next process starts."""
_HANGS_AFTER_SECONDS = 75.0
"""A trial takes seconds; a hanging one is stopped after this time."""
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_STDERR = 2
"""The descriptor, because tests replace `sys.stderr`."""


def record_here(
    plan: Sequence[Configuration],
    root: Path,
    *,
    deadline: float,
    since: str,
    after: Callable[[], None],
) -> int:
    """Open the GPU and record the missing trials; return the exit status.

    Args:
        plan: The wanted configurations.
        root: The folder of all GPUs.
        deadline: By `time.monotonic()`, in seconds.
        since: The start of the session; see `waiting`.
        after: Called after each configuration.

    Raises:
        DeviceError: The GPU cannot be used.
        FileError: The folder was recorded with other versions, or cannot be written.
    """
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - tests replace the device

    device = CudaDevice(0, None)
    folder = folder_of(root, device.info.name)
    device.is_clean()  # opening it leaves a cached segment behind
    note_machine(folder, machine_of(device, outside_bytes=outside_at_rest()))
    return record_missing(
        waiting(folder, plan, since=since),
        folder,
        device=device,
        recorder=CudaRecorder(),
        deadline=deadline,
        after=after,
    )


def waiting(
    folder: Path, plan: Iterable[Configuration], *, since: str
) -> tuple[Configuration, ...]:
    """Return the configurations to record: those without a file, then those that failed.

    Args:
        folder: The folder of the GPU.
        plan: The wanted configurations, in order.
        since: The start of this session, ISO 8601 in UTC. Trials that failed since then are not
            repeated.
    """
    missing, again = [], []
    for each in plan:
        path = trial_path(folder, each.name)
        if not path.exists():
            missing.append(each)
            continue
        try:
            known = load_trial(path)
        except FileError as error:
            print(f"{error}; it is renamed and recorded again", file=sys.stderr, flush=True)
            path.replace(path.with_name(f"{path.name}.damaged"))
            missing.append(each)
            continue
        if not known.is_complete and known.started_at < since:
            again.append(each)
    return (*missing, *again)


def record_missing(
    plan: Sequence[Configuration],
    folder: Path,
    *,
    device: Device,
    recorder: Recorder,
    deadline: float,
    after: Callable[[], None] = lambda: None,
) -> int:
    """Record configurations in order, while there is time.

    Args:
        plan: The configurations.
        folder: The folder of the GPU.
        device: The GPU.
        recorder: Records the allocator.
        deadline: By `time.monotonic()`, in seconds.
        after: Called after each configuration.

    Returns:
        0; `START_AGAIN` if a trial left memory or an error behind in this process; `STOPPED` if
        too many in a row failed.
    """
    longest, in_a_row = 0.0, 0
    for configuration in plan:
        if time.monotonic() + longest > deadline:
            print("The time is up.", flush=True)
            return 0
        with _watched(folder, configuration.name):
            trial = record_into(folder, configuration, device, recorder)
        after()
        longest = max(longest, trial.wall_seconds)
        print(f"{configuration.name}: {_words(trial)}", flush=True)
        in_a_row = 0 if trial.is_complete else in_a_row + 1
        if in_a_row == MOST_IN_A_ROW:
            print(f"Stopped: {in_a_row} trials in a row failed.", flush=True)
            return STOPPED
        if not _is_clean(device):
            return START_AGAIN
    return 0


def record_into(
    folder: Path, configuration: Configuration, device: Device, recorder: Recorder
) -> TruthTrial:
    """Run one configuration and write its result.

    The measured peaks are written before the history is reduced. If reducing fails, they stay, and
    the first such recording is kept raw.

    Args:
        folder: The folder of the GPU.
        configuration: The trial to run.
        device: The GPU.
        recorder: Records the allocator.

    Raises:
        FileError: The file cannot be written.
    """
    path = trial_path(folder, configuration.name)
    trial, recording = record(configuration, device, recorder)
    if recording is None:
        save_trial(path, trial, None)
        return trial
    save_trial(path, replace(trial, history_failure="not reduced yet"), None)
    try:
        trial, history = with_history(trial, recording)
    except Exception as error:  # noqa: BLE001 - the measurement is kept without a history
        why = f"{type(error).__name__}: {error}"
        trial = replace(trial, history_failure=f"{why}; {keep_raw(folder, trial.name, recording)}")
        history = None
    save_trial(path, trial, history)
    return trial


def record(
    configuration: Configuration, device: Device, recorder: Recorder
) -> tuple[TruthTrial, Recording | None]:
    """Run one configuration.

    Args:
        configuration: The trial to run.
        device: The GPU.
        recorder: Records the allocator.

    Returns:
        The trial and, if its history is wanted, PyTorch's snapshots.

    Raises:
        FileError: A file of the trial cannot be written.
    """
    started_at, start = datetime.now(UTC), time.monotonic()
    torch.manual_seed(configuration.spec.seed)  # the weights decide which fp16 updates are skipped
    phases: list[str] = []

    def report(phase: str) -> None:
        phases.append(phase)
        if configuration.has_history:
            recorder.mark()

    before = recorder.start() if configuration.has_history else {}
    measurement, failure = None, None
    try:
        measurement = device.run_trial(configuration.spec, report)
    except FileError:
        raise  # the next trials could not be written either
    except Exception as error:  # noqa: BLE001 - as in the worker: any failure becomes data
        outcome, failure = describe_failure(
            error, phases[-1] if phases else "opening", DeviceKind.CUDA
        )
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
        started_at=started_at.isoformat(timespec="milliseconds"),
        wall_seconds=round(time.monotonic() - start, 3),
        torch=torch.__version__,
        allocator_settings=next(filter(None, map(os.environ.get, _ALLOCATOR_SETTINGS)), ""),
    )
    if not configuration.has_history:
        return trial, None
    try:
        peak = peak_of(measurement, recorder)
        after = recorder.stop()
    except RuntimeError as error:  # CUDA's errors persist in the process
        return replace(trial, history_failure=f"the recorder did not stop: {error}"), None
    return trial, Recording(before=before, after=after, phases=tuple(phases), peak=peak)


def died(configuration: Configuration, *, status: int, last_words: str) -> TruthTrial:
    """Return the record of a trial whose process died.

    Args:
        configuration: The trial.
        status: The exit status of the process.
        last_words: The end of its standard error.
    """
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
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        wall_seconds=0.0,
        torch=torch.__version__,
        allocator_settings="",
    )


def _words(trial: TruthTrial) -> str:
    said = f"{trial.outcome}, {trial.wall_seconds:.1f} s"
    if trial.failure is not None and trial.outcome is Outcome.FAILED:
        said += f", {trial.failure.message}"
    return f"{said}, no history: {trial.history_failure}" if trial.history_failure else said


def being_recorded(folder: Path) -> str | None:
    """Return the name of the trial in which a process died; None if it died outside a trial."""
    path = _note_path(folder)
    return path.read_text(encoding="utf-8") if path.exists() else None


@contextmanager
def _watched(folder: Path, name: str) -> Iterator[None]:
    """Note the running trial, in case this process dies in it, and end the process if it hangs.

    A C thread does the latter, because a call that waits for the GPU may block Python for ever.
    """
    path = _note_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="utf-8")
    faulthandler.dump_traceback_later(_HANGS_AFTER_SECONDS, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        path.unlink(missing_ok=True)


def _note_path(folder: Path) -> Path:
    return folder / "being-recorded.txt"


def _is_clean(device: Device) -> bool:
    try:
        return device.is_clean()
    except RuntimeError as error:  # CUDA's errors persist in the process
        print(f"the GPU is unusable in this process: {error}", file=sys.stderr)
        return False
