"""Running trainings in worker processes, from the parent process."""

import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import DataSource, Failure
from bsprobe.records.variants import Variant
from bsprobe.study.messages import KINDS, LoadingDone, MeasureLoading, Train, TrainingDone
from bsprobe.study.records import Ending, LoaderSpec, Loading, Training, TrainingSpec
from bsprobe.worker.endings import WorkerDeath, again_if_killed, again_if_unexplained
from bsprobe.worker.process import ReportPhase, Worker

_COMMAND = (sys.executable, "-m", "bsprobe.study.child")


class StudyRunner:
    """Runs trainings, each in a new process, so that they do not influence each other."""

    def __init__(
        self, request: DeviceRequest, *, variant: Variant, data: DataSource, timeout: float
    ) -> None:
        self._start = partial(
            again_if_killed,
            partial(Worker, request, variants=(variant,), data=data, command=_COMMAND, kinds=KINDS),
        )
        self._timeout = timeout
        self._worker: Worker | None = self._start()
        self._is_used = False
        self.ready = self._worker.ready

    def train(self, spec: TrainingSpec, checkpoint: Path, *, on_phase: ReportPhase) -> Training:
        """Run one training, or resume it from its checkpoint.

        It is resumed once if its process dies without an error.

        Args:
            spec: The training.
            checkpoint: The file of its checkpoint.
            on_phase: Called with each phase of the worker.

        Raises:
            DeviceError: The worker refused the training, for example for a damaged image.
        """
        return again_if_unexplained(partial(self._train, spec, checkpoint, on_phase))

    def _train(self, spec: TrainingSpec, checkpoint: Path, on_phase: ReportPhase) -> Training:
        worker = self._fresh_worker(on_phase)
        started_at, start = datetime.now(UTC), time.monotonic()
        answer = worker.ask(
            Train(spec=spec, checkpoint=str(checkpoint)), timeout=self._timeout, on_phase=on_phase
        )
        assert isinstance(answer, TrainingDone | WorkerDeath)  # noqa: S101 - the answers to Train
        result = None if isinstance(answer, WorkerDeath) else answer.result
        return Training(
            spec=spec,
            ended=Ending.of(answer.outcome) if result is None else _ending(result.diverged_at),
            result=result,
            failure=answer.failure,
            started_at=started_at.isoformat(timespec="seconds"),
            wall_seconds=round(time.monotonic() - start, 3),
        )

    def measure_loading(self, spec: LoaderSpec, *, on_phase: ReportPhase) -> Loading | Failure:
        """Sweep the settings of the data loader; return the failure if it fails."""
        answer = again_if_unexplained(partial(self._measure_loading, spec, on_phase))
        if isinstance(answer, LoadingDone) and answer.result is not None:
            return answer.result
        assert answer.failure is not None  # noqa: S101 - an answer has a result or a failure
        return answer.failure

    def _measure_loading(
        self, spec: LoaderSpec, on_phase: ReportPhase
    ) -> LoadingDone | WorkerDeath:
        worker = self._fresh_worker(on_phase)
        answer = worker.ask(MeasureLoading(spec=spec), timeout=self._timeout, on_phase=on_phase)
        assert isinstance(answer, LoadingDone | WorkerDeath)  # noqa: S101 - the answers to MeasureLoading
        return answer

    def close(self) -> None:
        """Close the worker, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fresh_worker(self, on_phase: ReportPhase) -> Worker:
        if self._is_used:
            self.close()
        if self._worker is None:
            on_phase("starting a fresh process")
            self._worker = self._start()
        self._is_used = True
        return self._worker


def _ending(diverged_at: int | None) -> Ending:
    return Ending.FINISHED if diverged_at is None else Ending.DIVERGED
