"""Explanation of a variant: its boundary, its memory there and the effect of each remedy."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from bsprobe.analysis.remedies import Remedy, ranked, remedies_for
from bsprobe.analysis.search import Probe, Process, find_boundary
from bsprobe.engine.predict import card_like
from bsprobe.records.errors import DeviceError
from bsprobe.records.explanations import (
    EXPLANATION_VERSION,
    RECORDED_SNAPSHOT,
    SNAPSHOT,
    Explanation,
    ExplanationReport,
    MeasuredSide,
    RemedyResult,
)
from bsprobe.records.failures import TOO_LARGE
from bsprobe.records.runs import (
    Boundary,
    DeviceInfo,
    DeviceRequest,
    Environment,
)
from bsprobe.records.trials import Purpose, Source, Trial, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.worker.protocol import Attribute, Explain, Record
from bsprobe.worker.runner import TrialRunner


class Listener(Protocol):
    """Receives the progress of an explanation, to display it."""

    def on_stage(self, stage: str) -> None:
        """A stage that takes seconds begins."""

    def on_phase(self, phase: str) -> None:
        """The worker enters a phase."""


class Explaining:
    """Explains variants on a simulated card, and records them on the GPU if the device is one.

    Args:
        start: Starts a runner on a device with additional environment variables.
        request: The device. A GPU is recorded, and a card like it is simulated.
        max_batch: The largest batch to try.
        listener: Receives the progress.

    Raises:
        UsageError: The compute capability of the GPU is unknown.
    """

    def __init__(
        self,
        start: Callable[[DeviceRequest, Mapping[str, str]], TrialRunner],
        request: DeviceRequest,
        *,
        max_batch: int,
        listener: Listener,
    ) -> None:
        self._start = start
        self._request = request
        self._max_batch = max_batch
        self._listener = listener
        self._runners: dict[tuple[tuple[str, str], ...], TrialRunner] = {}
        self._recorder: TrialRunner | None = None
        with ExitStack() as stack:
            opened = stack.enter_context(start(request, {}))
            self.ready = opened.ready
            if self.ready.device.source is Source.PREDICTED:
                self._runners[()] = opened
            else:
                self._recorder = opened
                self._request = card_like(self.ready.device)
            self._stack = stack.pop_all()

    @property
    def device(self) -> DeviceInfo:
        """The simulated card."""
        return self._runner({}).ready.device

    def explain(
        self, variant: Variant, batch: int | None, environment: Environment, folder: Path
    ) -> ExplanationReport:
        """Explain the memory of one variant, before `with_remedies`.

        Args:
            variant: The variant to explain.
            batch: The micro-batch to explain. None explains the largest that fits, or, if none
                fits, the smallest that the network accepts.
            environment: The environment, for the report.
            folder: Folder for the memory snapshots.

        Raises:
            DeviceError: The variant runs at no batch size, or not at this one.
        """
        self._listener.on_stage("looking for the largest batch")
        boundary = self._boundary(variant, self._runner({}))
        proven = None if batch is not None else self._proven(variant)
        chosen = batch or _batch_at(proven or boundary)
        self._listener.on_stage(f"explaining batch {chosen}")
        spec = TrialSpec(variant=variant, batch_size=chosen)
        explanation = self._explanation(spec, self._runner({}), folder / SNAPSHOT)
        measured = None
        if self._recorder is not None:
            self._listener.on_stage(f"recording batch {chosen}")
            measured = recorded_side(
                spec,
                recorder=self._recorder,
                predictor=self._runner({}),
                snapshot=folder / RECORDED_SNAPSHOT,
                on_phase=self._listener.on_phase,
            )
            measured = replace(measured, boundary=proven)
        return ExplanationReport(
            schema_version=EXPLANATION_VERSION,
            environment=environment,
            device=self.device,
            variant=variant,
            boundary=boundary,
            explanation=explanation,
            remedies=(),
            are_remedies_known=False,
            measured=measured,
        )

    def with_remedies(self, report: ExplanationReport) -> ExplanationReport:
        """Predict the effect of each remedy, which takes most of the time.

        Args:
            report: The result of `explain`.
        """
        explanation, boundary = report.explanation, report.boundary
        remedies = remedies_for(report.variant, explanation.model, self.device.capability)
        batch = explanation.spec.batch_size
        results = [self._try(remedy, batch, boundary) for remedy in remedies]
        return replace(report, remedies=ranked(results), are_remedies_known=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _runner(self, environment: Mapping[str, str]) -> TrialRunner:
        """Return the runner of an environment; its worker keeps its traces."""
        key = tuple(sorted(environment.items()))
        if key not in self._runners:
            self._runners[key] = self._stack.enter_context(self._start(self._request, environment))
        return self._runners[key]

    def _boundary(self, variant: Variant, runner: TrialRunner) -> Boundary:
        """Search the boundary as `bsprobe run` does."""

        def measure(batch: int, process: Process) -> Probe:
            spec = TrialSpec(variant=variant, batch_size=batch)
            return Probe.of(self._trial(spec, runner, process))

        return find_boundary(
            measure,
            capacity_bytes=runner.ready.device.capacity_bytes,
            max_batch=self._max_batch,
        )

    def _proven(self, variant: Variant) -> Boundary | None:
        """Search the boundary on the GPU; return None without a GPU."""
        if self._recorder is None:
            return None
        self._listener.on_stage(f"trying batches on {self._recorder.ready.device.name}")
        boundary = self._boundary(variant, self._recorder)
        if boundary.has_failed:
            raise DeviceError(
                f"this network does not run on {self._recorder.ready.device.name}: "
                f"{boundary.detail}",
                hint="bsprobe run shows all details of the failure",
            )
        return boundary

    def _explanation(
        self, spec: TrialSpec, runner: TrialRunner, snapshot: Path | None = None
    ) -> Explanation:
        path = None if snapshot is None else str(snapshot.resolve())
        return runner.explain(Explain(spec=spec, snapshot=path), on_phase=self._listener.on_phase)

    def _try(self, remedy: Remedy, batch: int, before: Boundary) -> RemedyResult:
        """Predict the effect of a remedy, or the reason why it is impossible."""
        self._listener.on_stage(f"trying {remedy.name}")
        try:
            if remedy.accumulation_steps > 1:
                return self._accumulated(remedy, batch, before)
            runner = self._runner(remedy.environment)
            boundary = self._boundary(remedy.variant, runner)
            if not boundary.is_known:
                return _result(remedy, impossible=boundary.detail)
        except DeviceError as error:
            return _result(remedy, impossible=str(error))
        try:
            spec = TrialSpec(variant=remedy.variant, batch_size=batch)
            found = self._explanation(spec, runner)
        except DeviceError:  # the network may not run at this batch, such as one of a kernel limit
            return _result(remedy, boundary=boundary)
        return _result(
            remedy,
            boundary=boundary,
            peak_bytes=found.peak_bytes,
            per_image_bytes=found.per_image_bytes if found.scales else None,
        )

    def _accumulated(self, remedy: Remedy, batch: int, before: Boundary) -> RemedyResult:
        """Find the largest micro-batch that runs with accumulated gradients."""
        if not before.is_known:
            return _result(remedy, impossible=before.detail)
        failed: int | None = before.first_failure
        for micro in range(before.largest or 0, 0, -1):
            spec = TrialSpec(
                variant=remedy.variant,
                batch_size=micro,
                accumulation_steps=remedy.accumulation_steps,
            )
            trial = self._trial(spec, self._runner({}))
            if trial.failure is not None and trial.outcome not in TOO_LARGE:
                return _result(remedy, impossible=trial.failure.words)
            if trial.measurement is not None:
                return _result(
                    remedy,
                    boundary=Boundary(stop=before.stop, largest=micro, first_failure=failed),
                    peak_bytes=trial.measurement.peak_bytes if micro == batch else None,
                )
            failed = micro
        return _result(remedy, impossible="no micro-batch runs with accumulated gradients")

    def _trial(self, spec: TrialSpec, runner: TrialRunner, process: Process = Process.ANY) -> Trial:
        return runner.run(
            spec,
            process=process,
            purpose=Purpose.SEARCH,
            on_phase=self._listener.on_phase,
        )


def recorded_side(
    spec: TrialSpec,
    *,
    recorder: TrialRunner,
    predictor: TrialRunner,
    snapshot: Path,
    on_phase: Callable[[str], None],
) -> MeasuredSide:
    """Record a trial on a GPU and attribute its memory.

    Args:
        spec: The trial, without accumulation.
        recorder: The runner of the GPU.
        predictor: The runner of the simulated card like it (`card_like`).
        snapshot: Path for PyTorch's memory snapshot.
        on_phase: Called with each phase of the workers.

    Returns:
        The explanation, or the reason why there is none.
    """
    device, path = recorder.ready.device, str(snapshot.resolve())
    found = recorder.record(Record(spec=spec, snapshot=path), on_phase=on_phase)
    if found.trial is None:
        assert found.failure is not None  # noqa: S101 - exactly one of the two is set
        return MeasuredSide(device=device, failure=f"{found.failure.words} ({found.failure.phase})")
    try:
        asked = Attribute(trial=found.trial, snapshot=path)
        explanation = predictor.explain(asked, on_phase=on_phase)
    except DeviceError as error:
        return MeasuredSide(device=device, failure=str(error))
    return MeasuredSide(device=device, explanation=explanation)


def _batch_at(boundary: Boundary) -> int:
    """Return the largest batch, or, if none fits, the smallest that the network accepts.

    Raises:
        DeviceError: The boundary is not known.
    """
    batch = boundary.largest or boundary.first_failure
    if not boundary.is_known or batch is None:
        raise DeviceError(
            f"the largest batch is not known: {boundary.detail or boundary.stop}",
            hint="bsprobe run shows all details of the failure; --batch N explains a batch that "
            "runs",
        )
    return batch


def _result(
    remedy: Remedy,
    *,
    boundary: Boundary | None = None,
    peak_bytes: int | None = None,
    per_image_bytes: int | None = None,
    impossible: str = "",
) -> RemedyResult:
    return RemedyResult(
        name=remedy.name,
        command=remedy.command,
        cost=remedy.cost,
        variant=remedy.variant,
        accumulation_steps=remedy.accumulation_steps,
        boundary=boundary,
        peak_bytes=peak_bytes,
        per_image_bytes=per_image_bytes,
        impossible=impossible,
    )
