"""Trials in worker processes: a fresh one where it is asked for, and always a record."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Self

from bsprobe.analysis.search import Process
from bsprobe.records.explanations import Explanation
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import DataSource, Purpose, Source, Trial, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.worker import process as worker_process
from bsprobe.worker.process import ReportPhase, Watch, WorkerDeath
from bsprobe.worker.protocol import Attribute, Explain, Group, Record, Recorded


class TrialRunner:
    """Runs trials in workers, a new one whenever the old one is used up."""

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
        self._start = partial(
            worker_process.Worker,
            request,
            variants=variants,
            data=data,
            environment=environment,
            watch=watch,
        )
        self._timeout = timeout
        self._variant: object = None
        self._worker: worker_process.Worker | None = self._start()
        self.ready = self._worker.ready
        self._is_predicting = self.ready.device.source is Source.PREDICTED

    def run(
        self, spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: ReportPhase
    ) -> Trial:
        """Run one trial, in a fresh process where that is asked for or the old one is spoilt."""
        trial = self.attempt(spec, process=process, purpose=purpose, on_phase=on_phase)
        if self._worker is not None and not self._worker.is_clean:
            self.close()
        return trial

    def attempt(
        self,
        spec: TrialSpec,
        *,
        process: Process,
        purpose: Purpose,
        on_phase: ReportPhase,
        group: Group | None = None,
    ) -> Trial:
        """As `run`, but a worker that is spoilt then is left as it is, its connections open.

        Args:
            spec: What to run.
            process: In which process.
            purpose: Why.
            on_phase: Told what the worker is doing.
            group: With whom, where the trial has several processes.
        """
        worker = self._worker_for(spec, process, on_phase)
        fresh = worker.trials_run == 0 or self._is_predicting
        started_at, start = datetime.now(UTC), time.monotonic()
        done = worker.run(spec, timeout=self._timeout, on_phase=on_phase, group=group)
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
        """Say where the memory of a trial goes, in a worker of this device."""
        if self._worker is None:
            self._worker = self._start()
        return self._worker.explain(asked, timeout=self._timeout, on_phase=on_phase)

    def record(self, asked: Record, *, on_phase: ReportPhase) -> Recorded:
        """Run a trial and record it, as the first and the last of a process.

        Raises:
            DeviceError: The device does not record.
        """
        if self._worker is not None and self._worker.trials_run > 0:
            self.close()
        if self._worker is None:
            self._worker = self._start()
        answer = self._worker.ask(asked, timeout=self._timeout, on_phase=on_phase)
        self.close()
        if isinstance(answer, WorkerDeath):
            return Recorded(failure=answer.failure)
        assert isinstance(answer, Recorded)  # noqa: S101 - what it is answered with
        return answer

    def close(self) -> None:
        """End the current worker, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _worker_for(
        self, spec: TrialSpec, process: Process, on_phase: ReportPhase
    ) -> worker_process.Worker:
        worker = self._worker
        used = worker is not None and worker.trials_run > 0
        wants_another = process is Process.FRESH or spec.variant != self._variant
        # A simulated card begins empty in every trial: one process serves the whole run.
        if used and wants_another and not self._is_predicting:
            self.close()
        if self._worker is None:
            on_phase("starting a fresh process")
            self._worker = self._start()
        self._variant = spec.variant
        return self._worker
