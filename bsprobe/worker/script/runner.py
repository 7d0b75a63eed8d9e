"""Trials of a user's command: every trial is a new run of it."""

import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from bsprobe.analysis.search import Process
from bsprobe.devices.cuda_driver import ask_driver
from bsprobe.records.errors import DeviceError
from bsprobe.records.runs import DeviceRequest, Settings
from bsprobe.records.trials import Purpose, Source, Trial, TrialSpec
from bsprobe.worker.endings import again_if_unexplained
from bsprobe.worker.process import ReportPhase
from bsprobe.worker.protocol import Ready
from bsprobe.worker.runner import TrialRunner
from bsprobe.worker.script.environment import remove_leftovers
from bsprobe.worker.script.trial import Asked, run_trial
from bsprobe.worker.script.written import WorkingDirectory

_CPU_HINT = "measure on the CPU: --device cpu --memory-limit 4GiB"


class ScriptRunner:
    """Runs trials of a command on a device of this machine.

    Args:
        settings: The settings of the run.
        known: The trials of the interrupted run.

    Raises:
        DeviceError: The device does not exist, or the system is not Linux.
        WorkerError: The worker that looks at the device does not start.
    """

    def __init__(self, settings: Settings, *, known: Sequence[Trial] = ()) -> None:
        if sys.platform != "linux":
            raise DeviceError(
                f"a command is probed on Linux only, and this is {sys.platform}",
                hint="give the network instead: bsprobe run --model file.py:build",
            )
        remove_leftovers()
        self.ready = _opened(settings)
        self._timeout = settings.trial_timeout_seconds
        self._gpu = chosen_gpu(settings.device)
        self._outside = _outside_bytes(known)
        self._has_run = bool(known)

    def run(
        self, spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: ReportPhase
    ) -> Trial:
        """Run the command once; it is run again if it was killed without a known cause.

        Args:
            spec: The trial.
            process: Any; every run of a command is a fresh process.
            purpose: The purpose of the trial, for its record.
            on_phase: Called with each phase.
        """
        del process
        before = None
        if not self._has_run:
            before = WorkingDirectory(Path.cwd())
        trial = again_if_unexplained(partial(self._attempt, spec, purpose, on_phase))
        if before is not None and trial.script is not None:
            self._has_run = True
            trial = replace(trial, script=replace(trial.script, wrote=before.written()))
        if self._outside is None:
            self._outside = _outside_bytes([trial])
        return trial

    def _attempt(self, spec: TrialSpec, purpose: Purpose, on_phase: ReportPhase) -> Trial:
        started_at, start = datetime.now(UTC), time.monotonic()
        asked = Asked(
            spec=spec,
            device=self.ready.device,
            timeout_seconds=self._timeout,
            outside_bytes=self._outside,
            gpu=self._gpu,
        )
        ran = run_trial(asked, os.environ, on_phase)
        return Trial(
            spec=spec,
            outcome=ran.outcome,
            source=Source.MEASURED,
            purpose=purpose,
            fresh_process=True,
            measurement=ran.measurement,
            failure=ran.failure,
            started_at=started_at.isoformat(timespec="seconds"),
            wall_seconds=round(time.monotonic() - start, 3),
            script=ran.facts,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no process outlives its trial."""


def _opened(settings: Settings) -> Ready:
    """Open the device in a worker to describe it, and close it again."""
    if settings.device.device is None and ask_driver(0) is None:
        raise DeviceError(
            "there is no GPU in this machine, and a command cannot be predicted", hint=_CPU_HINT
        )
    with TrialRunner(settings.device, timeout=settings.trial_timeout_seconds) as opened:
        ready = opened.ready
    return replace(ready, variants=settings.variants)


def chosen_gpu(request: DeviceRequest) -> str | None:
    """Return the value of `CUDA_VISIBLE_DEVICES` for `cuda:N` and `cpu`; None to leave it.

    A script that is not told about the choice takes the first visible GPU.
    """
    if request.device == "cpu":
        return ""
    match = re.fullmatch(r"cuda:(\d+)", request.device or "")
    if match is None:
        return None
    index = int(match[1])
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return visible[index] if index < len(visible) else str(index)


def _outside_bytes(trials: Sequence[Trial]) -> int | None:
    """The memory outside the allocator in the first trial that ran on a GPU, or None."""
    for trial in trials:
        measured = trial.measurement
        if measured is not None and measured.peak_reserved_bytes is not None:
            return measured.outside_allocator_bytes
    return None
