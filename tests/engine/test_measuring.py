"""Explanations with a stub GPU, whose trials and recordings are fabricated.

The workers that predict, and that explain the recordings, are real.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import pytest

from bsprobe.engine.explain import Explaining
from bsprobe.engine.run import recorded_star
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.explanations import (
    NOT_ATTRIBUTED,
    RECORDED_SNAPSHOT,
    SNAPSHOT,
    ExplanationReport,
    MeasuredSide,
    RecordedTrial,
)
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import (
    Boundary,
    DeviceRequest,
    Run,
    StopReason,
    Target,
)
from bsprobe.records.trials import Source, Trial, TrialSpec
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.storage.explanationfile import load_explanation, save_explanation
from bsprobe.worker.protocol import Ready, Record, Recorded
from bsprobe.worker.runner import TrialRunner
from tests.support.builders import (
    ArithmeticGpu,
    Silence,
    broke,
    failure,
    probed_run,
    ran,
    settings,
)
from tests.support.explanations import GPU, REPORT
from tests.support.recorded_steps import recorded

VARIANT = Variant(model="deeplabv2-mini", resolution=Resolution(height=32, width=32))
LARGEST = 2
MOST = 4
"""The largest batch to try; no test here needs more."""


class InventedGpu:
    """Stub GPU that runs up to `largest` images; its recordings are simulations on 8.6.

    Args:
        outcome: The outcome of larger batches.
        spoil: Changes the recorded snapshot.
        largest: The largest batch that runs.
    """

    def __init__(
        self,
        outcome: Outcome = Outcome.OUT_OF_MEMORY,
        spoil: Callable[[Any], None] = lambda _: None,
        largest: int = LARGEST,
    ) -> None:
        self.ready = Ready(device=GPU, torch="2.11.0", cuda="13.0", cudnn="91500", cpu_threads=1)
        self.asked: list[Record] = []
        self._outcome = outcome
        self._spoil = spoil
        self._largest = largest

    def run(self, spec: TrialSpec, **_: object) -> Trial:
        if spec.batch_size <= self._largest:
            return replace(ran(spec.batch_size, variant=spec.variant), spec=spec)
        return replace(broke(spec.batch_size, self._outcome, variant=spec.variant), spec=spec)

    def record(self, asked: Record, **_: object) -> Recorded:
        self.asked.append(asked)
        if asked.spec.batch_size > self._largest:
            return Recorded(failure=failure())
        snapshot, trial = fabricated(asked.spec)
        self._spoil(snapshot)
        Path(asked.snapshot).write_bytes(pickle.dumps(snapshot))
        return Recorded(trial=trial)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def fabricated(spec: TrialSpec) -> tuple[dict[str, Any], RecordedTrial]:
    timeline = StepTracer(spec.variant).timeline(spec.batch_size)
    with Workspaces((8, 6)) as workspaces:
        return recorded(
            timeline,
            spec,
            lambda memory: Playback(
                timeline, spec.batch_size, allocator=memory, workspaces=workspaces
            ),
        )


class Kept:
    """Shares one real runner between explanations."""

    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner
        self.ready = runner.ready
        self.run = runner.run
        self.explain = runner.explain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


Start = Callable[[InventedGpu], Callable[[DeviceRequest, Mapping[str, str]], TrialRunner]]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Start the stub GPU for a request without a card, and a real predicting worker otherwise."""
    started: list[tuple[DeviceRequest, Mapping[str, str], TrialRunner]] = []

    def start_on(gpu: InventedGpu) -> Callable[[DeviceRequest, Mapping[str, str]], TrialRunner]:
        def start(request: DeviceRequest, variables: Mapping[str, str]) -> TrialRunner:
            if request.gpu is None:
                return cast("TrialRunner", gpu)
            for asked, under, known in started:
                if (asked, under) == (request, variables):
                    return cast("TrialRunner", Kept(known))
            new = TrialRunner(request, timeout=300.0, environment=variables)
            started.append((request, variables, new))
            return cast("TrialRunner", Kept(new))

        return start

    yield start_on
    for _, _, each in started:
        each.close()


def measured(
    start: Start, gpu: InventedGpu, folder: Path, batch: int | None = None
) -> ExplanationReport:
    with Explaining(start(gpu), DeviceRequest(), max_batch=MOST, listener=Silence()) as made:
        return made.explain(VARIANT, batch, REPORT.environment, folder)


def side_of(report: ExplanationReport) -> MeasuredSide:
    assert report.measured is not None
    return report.measured


def test_the_largest_batch_is_recorded_and_predicted(start: Start, tmp_path: Path) -> None:
    gpu = InventedGpu()
    report = measured(start, gpu, tmp_path)
    spec = TrialSpec(variant=VARIANT, batch_size=LARGEST)
    assert gpu.asked == [Record(spec=spec, snapshot=str(tmp_path / RECORDED_SNAPSHOT))]
    side = side_of(report)
    assert side.device == GPU
    assert side.boundary == Boundary(stop=StopReason.PROVEN, largest=2, first_failure=3)
    # The prediction is for a card with the same memory, and has its own boundary.
    assert (report.device.source, report.device.total_bytes) == (Source.PREDICTED, 12 * GIB)
    assert (report.boundary.stop, report.boundary.largest) == (StopReason.MAX_BATCH, MOST)
    found, predicted = side.explanation, report.explanation
    assert found is not None
    assert (found.source, predicted.source) == (Source.MEASURED, Source.PREDICTED)
    assert found.spec == predicted.spec == spec
    # The recording is fabricated from the prediction, so both agree, except for the growth per
    # image, which a recording does not have.
    assert {replace(each, per_image_bytes=0) for each in predicted.allocations} == set(
        found.allocations
    )
    assert found.peak_reserved_bytes == predicted.peak_reserved_bytes
    assert {path.name for path in tmp_path.iterdir()} == {SNAPSHOT, RECORDED_SNAPSHOT}
    save_explanation(report, tmp_path)
    assert load_explanation(tmp_path) == report


def test_the_requested_batch_is_recorded_without_a_search(start: Start, tmp_path: Path) -> None:
    report = measured(start, InventedGpu(), tmp_path, 1)
    side = side_of(report)
    assert side.boundary is None
    assert side.explanation is not None
    assert side.explanation.spec.batch_size == report.explanation.spec.batch_size == 1


def test_a_batch_that_does_not_run_has_a_failure_and_a_predicted_explanation(
    start: Start, tmp_path: Path
) -> None:
    report = measured(start, InventedGpu(), tmp_path, 3)
    assert side_of(report) == MeasuredSide(
        device=GPU, failure=f"{failure().message} ({failure().phase})"
    )
    assert report.explanation.spec.batch_size == 3


def test_if_nothing_runs_the_smallest_batch_is_explained_by_prediction(
    start: Start, tmp_path: Path
) -> None:
    report = measured(start, InventedGpu(largest=0), tmp_path)
    side = side_of(report)
    assert side.boundary is not None
    assert (side.boundary.stop, side.boundary.first_failure) == (StopReason.NOTHING_FITS, 1)
    assert side.explanation is None
    assert report.explanation.spec.batch_size == 1


def test_an_unreadable_recording_leaves_the_prediction(start: Start, tmp_path: Path) -> None:
    def spoil(snapshot: Any) -> None:
        snapshot["device_traces"][0].append({"action": "teleport"})

    side = side_of(measured(start, InventedGpu(spoil=spoil), tmp_path, 2))
    assert side.explanation is None
    assert "'teleport'" in side.failure


def test_an_unknown_allocation_is_not_attributed(start: Start, tmp_path: Path) -> None:
    def spoil(snapshot: Any) -> None:
        trace = snapshot["device_traces"][0]
        trace.insert(5, {"action": "alloc", "addr": 4096, "size": 99_999, "stream": 0})

    found = side_of(measured(start, InventedGpu(spoil=spoil), tmp_path, 2)).explanation
    assert found is not None
    unknown = [each for each in found.allocations if each.kind == NOT_ATTRIBUTED]
    assert [each.size_bytes for each in unknown] == [99_999]


def test_a_bug_on_the_gpu_stops_the_explanation(start: Start, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="NVIDIA Invented 12: OutOfMemoryError"):
        measured(start, InventedGpu(Outcome.FAILED, largest=0), tmp_path)


def test_a_gpu_with_an_unknown_compute_capability_is_refused(start: Start, tmp_path: Path) -> None:
    gpu = InventedGpu()
    gpu.ready = replace(gpu.ready, device=replace(GPU, compute_capability="99.0"))
    with pytest.raises(UsageError, match=r"NVIDIA Invented 12 .* 99\.0"):
        measured(start, gpu, tmp_path)


def finished(folder: Path) -> Run:
    """Make a run on the stub GPU that recommends two images with accumulation."""
    chosen = settings(VARIANT, target=Target(batch=2 * LARGEST))
    chosen = replace(chosen, device=DeviceRequest(device="cuda:0"))
    gpu = ArithmeticGpu(capacity_bytes=11 * GIB // 2)
    return probed_run(folder, chosen, run_trial=gpu, device=GPU)


def without_timeout(begin: Any) -> Any:
    def begun(request: DeviceRequest, **_: object) -> Any:
        return begin(request, {})

    return begun


def test_a_run_on_a_gpu_records_the_step_of_its_starred_row(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    gpu = InventedGpu()
    monkeypatch.setattr("bsprobe.engine.run.TrialRunner", without_timeout(start(gpu)))
    run = finished(tmp_path)
    assert run.best is not None
    assert (run.best.plan.micro_batch, run.best.plan.accumulation_steps) == (LARGEST, 2)
    found = recorded_star(run, cast("TrialRunner", gpu), said.append, said.append)
    assert [asked.spec for asked in gpu.asked] == [TrialSpec(variant=VARIANT, batch_size=LARGEST)]
    assert list(found) == [VARIANT]
    assert found[VARIANT].source is Source.MEASURED


def test_a_run_whose_step_cannot_be_recorded_only_warns(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    gpu = InventedGpu(largest=0)
    monkeypatch.setattr("bsprobe.engine.run.TrialRunner", without_timeout(start(gpu)))
    run = finished(tmp_path)
    assert recorded_star(run, cast("TrialRunner", gpu), said.append, said.append) == {}
    assert said[-1].startswith("warning: ")
    assert "OutOfMemoryError" in said[-1]
    unknown = replace(run, device=replace(GPU, compute_capability="99.0"))
    assert recorded_star(unknown, cast("TrialRunner", gpu), said.append, said.append) == {}
    assert said[-1].startswith("warning: ")
    assert "compute capability 99.0" in said[-1]
