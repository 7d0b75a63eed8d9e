"""Trials in worker processes: every trial gets a record, and on request a fresh process."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Self, TypeVar

from bsprobe.analysis.search import Process
from bsprobe.records.errors import DeviceError
from bsprobe.records.explanations import Explanation
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import DataSource, Purpose, Source, Trial, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.worker import process as worker_process
from bsprobe.worker.endings import (
    WorkerDeath,
    again_if_killed,
    again_if_unexplained,
    keeping_training,
)
from bsprobe.worker.process import ReportPhase, Watch
from bsprobe.worker.protocol import Attribute, Explain, Explained, Group, Record, Recorded, Request

_Answered = TypeVar("_Answered", Explained, Recorded)


class TrialRunner:
    """Runs trials in workers, and starts a new worker if the old one cannot be reused.

    Args:
        request: The device to open.
        timeout: Time limit of a trial in seconds.
        variants: The variants of the trials.
        data: The images of the trials.
        environment: Variables to set for the workers in addition to those of this process.
        watch: Called repeatedly while the runner waits for a worker.

    Raises:
        DeviceError: The device, or something that is named, does not exist.
        WorkerError: The worker does not start.
    """

    def __init__(
        self,
        request: DeviceRequest,
        *,
        timeout: float,
        variants: tuple[Variant, ...] = (),
        data: DataSource | None = None,
        environment: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> None:
        start = partial(
            worker_process.Worker, request, data=data, environment=environment, watch=watch
        )
        self._timeout = timeout
        self._variant: object = None
        self._worker: worker_process.Worker | None = again_if_killed(
            partial(start, variants=variants)
        )
        self.ready = self._worker.ready
        # Later workers get the variants as the first one has completed them.
        again = partial(start, variants=self.ready.variants or variants)
        self._start = partial(again_if_killed, again)
        self.files: set[str] = set()
        """The user's own files that workers have imported for their trials."""
        self._is_predicting = self.ready.device.source is Source.PREDICTED

    def run(
        self, spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: ReportPhase
    ) -> Trial:
        """Run one trial, in a fresh process on request or if the old one cannot be reused.

        A trial whose process dies without a known cause is run once more. A trial whose process
        dies in its validation is run again without it.

        Args:
            spec: The trial.
            process: A fresh process, or any.
            purpose: The purpose of the trial, for its record.
            on_phase: Called with each phase of the worker.

        Raises:
            DeviceError: The worker refused the trial: a value that only it can check is invalid.
        """

        def attempt(asked: TrialSpec) -> Trial:
            trial = self.attempt(asked, process=process, purpose=purpose, on_phase=on_phase)
            self._drop_spoilt_worker()
            return trial

        return keeping_training(lambda asked: again_if_unexplained(partial(attempt, asked)), spec)

    def attempt(
        self,
        spec: TrialSpec,
        *,
        process: Process,
        purpose: Purpose,
        on_phase: ReportPhase,
        group: Group | None = None,
    ) -> Trial:
        """Run one trial once; a worker that cannot be reused is not stopped.

        Args:
            spec: The trial.
            process: A fresh process, or any.
            purpose: The purpose of the trial, for its record.
            on_phase: Called with each phase of the worker.
            group: The process group of a trial of several processes.
        """
        worker = self._worker_for(spec, process, on_phase)
        fresh = worker.trials_run == 0 or self._is_predicting
        started_at, start = datetime.now(UTC), time.monotonic()
        done = worker.run(spec, timeout=self._timeout, on_phase=on_phase, group=group)
        self.files.update(done.files)
        return Trial(
            spec=spec,
            outcome=done.outcome,
            source=self.ready.device.source,
            purpose=purpose,
            fresh_process=fresh,
            measurement=done.measurement,
            failure=done.failure,
            started_at=started_at.isoformat(timespec="seconds"),
            wall_seconds=round(time.monotonic() - start, 3),
            budget_bytes=done.budget_bytes,
        )

    def explain(self, asked: Explain | Attribute, *, on_phase: ReportPhase) -> Explanation:
        """Explain the memory of a trial, predicted or recorded.

        Args:
            asked: The request.
            on_phase: Called with each phase of the worker.

        Raises:
            DeviceError: The trial fails, or the device is not simulated.
        """
        answer = again_if_unexplained(partial(self._ask, asked, Explained, on_phase))
        if isinstance(answer, Explained) and answer.explanation is not None:
            return answer.explanation
        why = "no reason given" if answer.failure is None else answer.failure.message
        spec = asked.trial.spec if isinstance(asked, Attribute) else asked.spec
        raise DeviceError(
            f"batch {spec.batch_size} cannot be explained: {why}",
            hint="bsprobe run shows all details of the failure",
        )

    def record(self, asked: Record, *, on_phase: ReportPhase) -> Recorded:
        """Run a trial and record its allocations, in a process that runs no other trial.

        Raises:
            DeviceError: The device cannot record allocations.
        """

        def attempt() -> Recorded | WorkerDeath:
            if self._worker is not None and self._worker.trials_run > 0:
                self.close()
            answer = self._ask(asked, Recorded, on_phase)
            self.close()
            return answer

        answer = again_if_unexplained(attempt)
        return Recorded(failure=answer.failure) if isinstance(answer, WorkerDeath) else answer

    def close(self) -> None:
        """End the current worker, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, asked: Request, answered: type[_Answered], on_phase: ReportPhase
    ) -> _Answered | WorkerDeath:
        """Send a request that is not a trial, and wait for the answer."""
        if self._worker is None:
            self._worker = self._start()
        answer = self._worker.ask(asked, timeout=self._timeout, on_phase=on_phase)
        assert isinstance(answer, answered | WorkerDeath)  # noqa: S101 - the only answer
        self._drop_spoilt_worker()
        return answer

    def _drop_spoilt_worker(self) -> None:
        if self._worker is not None and not self._worker.is_clean:
            self.close()

    def _worker_for(
        self, spec: TrialSpec, process: Process, on_phase: ReportPhase
    ) -> worker_process.Worker:
        worker = self._worker
        used = worker is not None and worker.trials_run > 0
        wants_another = process is Process.FRESH or spec.variant != self._variant
        # A simulated card is empty at the start of each trial: one process serves the whole run.
        if used and wants_another and not self._is_predicting:
            self.close()
        if self._worker is None:
            on_phase("starting a fresh process")
            self._worker = self._start()
        self._variant = spec.variant
        return self._worker
