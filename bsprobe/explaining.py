"""A whole explanation: the boundary, what fills the card there, what each remedy would bring."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

from bsprobe.errors import DeviceError
from bsprobe.explanation import (
    EXPLANATION_VERSION,
    Explanation,
    ExplanationReport,
    RemedyResult,
)
from bsprobe.messages import Explain
from bsprobe.records import (
    Boundary,
    DeviceInfo,
    Environment,
    Purpose,
    StopReason,
    Trial,
    TrialSpec,
)
from bsprobe.remedies import Remedy, ranked, remedies_for
from bsprobe.runner import TrialRunner
from bsprobe.search import Probe, Process, find_boundary
from bsprobe.variants import Variant


class Listener(Protocol):
    """Is told what happens, for people to see."""

    def on_stage(self, stage: str) -> None:
        """Something begins that takes seconds."""

    def on_phase(self, phase: str) -> None:
        """The worker does something else now."""


class Explaining:
    """Explains variants on one simulated card.

    Args:
        start: Starts a runner under some environment variables.
        max_batch: The largest batch that may be tried.
        listener: Told what happens.
    """

    def __init__(
        self,
        start: Callable[[Mapping[str, str]], TrialRunner],
        *,
        max_batch: int,
        listener: Listener,
    ) -> None:
        self._start = start
        self._max_batch = max_batch
        self._listener = listener
        self._stack = ExitStack()
        self._runners: dict[tuple[tuple[str, str], ...], TrialRunner] = {}
        self.ready = self._runner({}).ready

    @property
    def device(self) -> DeviceInfo:
        """The card."""
        return self.ready.device

    def explain(
        self, variant: Variant, batch: int | None, environment: Environment, snapshot: Path | None
    ) -> ExplanationReport:
        """Explain one variant.

        Args:
            variant: What is trained.
            batch: The micro-batch to explain; None: the largest that fits, or the smallest that
                runs where none fits.
            environment: Where this is done.
            snapshot: Where to write the memory snapshot, or None.

        Raises:
            DeviceError: The variant does not run at any batch size, or not at this one.
        """
        self._listener.on_stage("looking for the largest batch")
        boundary = self._boundary(variant, self._runner({}))
        chosen = batch or boundary.largest or _smallest(boundary)
        self._listener.on_stage(f"explaining batch {chosen}")
        path = None if snapshot is None else str(snapshot.resolve())
        explanation = self._explanation(variant, chosen, self._runner({}), path)
        results = [self._try(remedy, chosen, boundary) for remedy in remedies_for(variant)]
        return ExplanationReport(
            schema_version=EXPLANATION_VERSION,
            environment=environment,
            device=self.device,
            variant=variant,
            boundary=boundary,
            explanation=explanation,
            remedies=ranked(results),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _runner(self, environment: Mapping[str, str]) -> TrialRunner:
        """The runner of an environment: its worker keeps what it has traced."""
        key = tuple(sorted(environment.items()))
        if key not in self._runners:
            self._runners[key] = self._stack.enter_context(self._start(environment))
        return self._runners[key]

    def _boundary(self, variant: Variant, runner: TrialRunner) -> Boundary:
        """The search of `bsprobe run`, with its trials."""

        def measure(batch: int, process: Process) -> Probe:
            spec = TrialSpec(variant=variant, batch_size=batch)
            return Probe.of(self._trial(spec, runner, process))

        return find_boundary(
            measure, capacity_bytes=self.device.capacity_bytes, max_batch=self._max_batch
        )

    def _explanation(
        self, variant: Variant, batch: int, runner: TrialRunner, snapshot: str | None = None
    ) -> Explanation:
        spec = TrialSpec(variant=variant, batch_size=batch)
        asked = Explain(spec=spec, snapshot=snapshot)
        return runner.explain(asked, on_phase=self._listener.on_phase)

    def _try(self, remedy: Remedy, batch: int, before: Boundary) -> RemedyResult:
        """What one change brings; one that is impossible says why."""
        self._listener.on_stage(f"trying {remedy.name}")
        try:
            if remedy.accumulation_steps > 1:
                return self._accumulated(remedy, batch, before)
            runner = self._runner(remedy.environment)
            boundary = self._boundary(remedy.variant, runner)
            if boundary.stop is StopReason.FAILED:
                return _result(remedy, impossible=boundary.detail)
            found = self._explanation(remedy.variant, batch, runner)
        except DeviceError as error:
            return _result(remedy, impossible=str(error))
        return _result(
            remedy,
            boundary=boundary,
            peak_bytes=found.peak_bytes,
            per_image_bytes=found.per_image_bytes if found.scales else None,
        )

    def _accumulated(self, remedy: Remedy, batch: int, before: Boundary) -> RemedyResult:
        """The largest micro-batch that still runs where its gradients are accumulated."""
        failed: int | None = before.first_failure
        for micro in range(before.largest or 0, 0, -1):
            spec = TrialSpec(
                variant=remedy.variant,
                batch_size=micro,
                accumulation_steps=remedy.accumulation_steps,
            )
            trial = self._trial(spec, self._runner({}))
            if trial.measurement is not None:
                return _result(
                    remedy,
                    boundary=Boundary(stop=before.stop, largest=micro, first_failure=failed),
                    peak_bytes=trial.measurement.peak_bytes if micro == batch else None,
                )
            failed = micro
        return _result(remedy, impossible="not even one image runs with its gradients accumulated")

    def _trial(self, spec: TrialSpec, runner: TrialRunner, process: Process = Process.ANY) -> Trial:
        return runner.run(
            spec,
            process=process,
            purpose=Purpose.SEARCH,
            on_phase=self._listener.on_phase,
        )


def _smallest(boundary: Boundary) -> int:
    """The smallest batch that would run if there were memory for it."""
    if boundary.stop is StopReason.NOTHING_FITS and boundary.first_failure is not None:
        return boundary.first_failure
    raise DeviceError(
        f"this network runs at no batch size: {boundary.detail or boundary.stop}",
        hint="does bsprobe run predict it?",
    )


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
