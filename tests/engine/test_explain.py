"""Explanations in real worker processes, compared with runs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, cast

import pytest

from bsprobe.analysis.remedies import EXPANDABLE, remedies_for
from bsprobe.analysis.search import Process
from bsprobe.engine.explain import Explaining
from bsprobe.engine.predict import card_like
from bsprobe.records.errors import DeviceError
from bsprobe.records.explanations import Explanation, ExplanationReport
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.gpus import custom_gpu
from bsprobe.records.runs import (
    Boundary,
    DeviceRequest,
    Run,
    Settings,
    StopReason,
    Target,
)
from bsprobe.records.trials import Purpose, Source, Trial, TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Checkpointing, Precision, Variant
from bsprobe.worker.protocol import Explain, Ready
from bsprobe.worker.runner import TrialRunner
from tests.support.builders import DEVICE, Silence, broke, failure, probed_run, ran
from tests.support.explanations import EXPLANATION, REPORT

VARIANT = Variant(model="deeplabv2-mini", resolution=Resolution(height=256, width=512))
REQUEST = DeviceRequest(gpu=custom_gpu(900 * MIB, "8.6", 50 * MIB))
START = partial(TrialRunner, REQUEST, timeout=300.0)


def start(request: DeviceRequest, environment: Mapping[str, str]) -> TrialRunner:
    return TrialRunner(request, timeout=300.0, environment=environment)


@pytest.fixture(scope="module")
def explaining() -> Iterator[Explaining]:
    with Explaining(start, REQUEST, max_batch=4096, listener=Silence()) as made:
        yield made


@pytest.fixture(scope="module")
def report(explaining: Explaining, tmp_path_factory: pytest.TempPathFactory) -> ExplanationReport:
    folder = tmp_path_factory.mktemp("explained")
    return explaining.with_remedies(explaining.explain(VARIANT, None, REPORT.environment, folder))


def found_by_run(runner: TrialRunner, variants: tuple[Variant, ...], folder: Path) -> Run:
    settings = Settings(
        variants=variants,
        device=REQUEST,
        target=Target(batch=4),
        max_batch=4096,
        trial_timeout_seconds=300.0,
    )
    return probed_run(folder, settings, run_trial=runner.run, device=runner.ready.device)


@pytest.mark.nightly
def test_each_remedy_has_the_largest_batch_of_a_run_with_it(
    report: ExplanationReport, tmp_path: Path
) -> None:
    remedies = remedies_for(VARIANT, None, None)
    changed = tuple(each.variant for each in remedies if each.variant != VARIANT)
    with START() as runner:
        run = found_by_run(runner, (VARIANT, *changed), tmp_path / "plain")
    with START(environment=EXPANDABLE) as runner:
        expandable = found_by_run(runner, (VARIANT,), tmp_path / "expandable")
    boundaries = {result.variant: result.boundary for result in run.results}
    assert report.boundary == boundaries[VARIANT]
    by_name = {each.name: each for each in report.remedies}
    for remedy in remedies:
        found = by_name[remedy.name]
        if remedy.environment:
            assert found.boundary == expandable.results[0].boundary
        elif remedy.accumulation_steps == 1:
            assert found.boundary == boundaries[remedy.variant], remedy.name


@pytest.mark.nightly
def test_accumulation_has_the_largest_micro_batch_that_runs_with_it(
    report: ExplanationReport,
) -> None:
    (found,) = (each for each in report.remedies if each.accumulation_steps > 1)
    with START() as runner:
        ran = [
            micro
            for micro in range(1, (report.boundary.largest or 0) + 1)
            if runner.run(
                TrialSpec(variant=VARIANT, batch_size=micro, accumulation_steps=2),
                process=Process.ANY,
                purpose=Purpose.SEARCH,
                on_phase=lambda _: None,
            ).ran
        ]
    assert found.largest == max(ran)


@pytest.mark.nightly
def test_a_remedy_has_its_peak_at_the_explained_batch(
    report: ExplanationReport,
    explaining: Explaining,
    tmp_path: Path,
) -> None:
    batch = report.explanation.spec.batch_size
    assert batch == report.boundary.largest
    for each in report.remedies[:3]:
        if each.name != "expandable segments":
            made = explaining.explain(each.variant, batch, REPORT.environment, tmp_path)
            again = made.explanation
            assert (each.peak_bytes, each.per_image_bytes) == (
                again.peak_bytes,
                again.per_image_bytes,
            )


class InventedRunner:
    """Stub runner: memory is affine in the batch, with half the slope in half precision.

    Its networks have no blocks to checkpoint.
    """

    def __init__(self, per_image: int = 3 * GIB, smallest: int = 1) -> None:
        self.ready = Ready(
            device=REPORT.device, torch="2.11.0", cuda=None, cudnn=None, cpu_threads=1
        )
        self.asked: list[Explain] = []
        self._per_image = per_image
        self._smallest = smallest

    def run(self, spec: TrialSpec, *, purpose: Purpose, **_: object) -> Trial:
        if spec.variant.checkpointing is Checkpointing.ON:
            raise DeviceError("this model has no residual blocks to checkpoint")
        peak = self._peak(spec) + (spec.accumulation_steps - 1) * 4 * GIB + 256 * MIB
        fits = peak <= REPORT.device.capacity_bytes and spec.batch_size >= self._smallest
        too_small = spec.batch_size < self._smallest
        no = Outcome.BATCH_TOO_SMALL if too_small else Outcome.OUT_OF_MEMORY
        made = ran(spec.batch_size, peak) if fits else broke(spec.batch_size, no)
        return replace(made, spec=spec, source=Source.PREDICTED, purpose=purpose)

    def explain(self, asked: Explain, **_: object) -> Explanation:
        self.asked.append(asked)
        return replace(EXPLANATION, spec=asked.spec, peak_reserved_bytes=self._peak(asked.spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def _peak(self, spec: TrialSpec) -> int:
        half = spec.variant.precision is not Precision.FP32
        return spec.batch_size * self._per_image // (2 if half else 1)


def explained(runner: InventedRunner, batch: int | None = None) -> ExplanationReport:
    with Explaining(
        lambda _request, _environment: cast("TrialRunner", runner),
        REQUEST,
        max_batch=64,
        listener=Silence(),
    ) as explaining:
        made = explaining.explain(VARIANT, batch, REPORT.environment, Path("folder"))
        assert (made.remedies, made.are_remedies_known) == ((), False)
        return explaining.with_remedies(made)


def test_a_few_mib_of_other_processes_are_no_memory_limit_of_the_card() -> None:
    whole = replace(DEVICE, limit_bytes=None, capacity_bytes=DEVICE.total_bytes)
    limits = {
        held: card_like(replace(whole, capacity_bytes=whole.total_bytes - held)).memory_limit_bytes
        for held in (0, 3 * MIB, 300 * MIB)
    }
    assert limits == {0: None, 3 * MIB: None, 300 * MIB: whole.total_bytes - 300 * MIB}
    asked = DEVICE.total_bytes - MIB
    capped = replace(whole, capacity_bytes=asked, limit_bytes=asked)
    assert card_like(capped).memory_limit_bytes == asked


class DyingRunner(InventedRunner):
    """Stub runner on which the process of one variant dies without a known cause.

    Args:
        precision: The precision of that variant.
        batch: The smallest batch at which it dies.
        outcome: The outcome of such a trial.
    """

    def __init__(self, precision: Precision, batch: int, outcome: Outcome) -> None:
        super().__init__()
        self._dies = (precision, batch, outcome)

    def run(self, spec: TrialSpec, *, purpose: Purpose, **others: object) -> Trial:
        trial = super().run(spec, purpose=purpose, **others)
        precision, batch, outcome = self._dies
        if spec.variant.precision is not precision or spec.batch_size < batch:
            return trial
        why = failure("the process died", certainty=Certainty.UNEXPLAINED)
        return replace(trial, outcome=outcome, measurement=None, failure=why)


NO_VERDICTS = [Outcome.FAILED, Outcome.HOST_MEMORY]


@pytest.mark.parametrize("outcome", NO_VERDICTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_without_a_known_boundary_only_a_requested_batch_is_explained(
    batch: int, outcome: Outcome
) -> None:
    runner = DyingRunner(VARIANT.precision, batch, outcome)
    with pytest.raises(DeviceError, match=r"largest batch .*the process died"):
        explained(runner)
    made = explained(runner, 1)
    assert made.explanation.spec.batch_size == 1
    accumulated = next(each for each in made.remedies if each.accumulation_steps > 1)
    assert (accumulated.boundary, "the process died" in accumulated.impossible) == (None, True)


@pytest.mark.parametrize("outcome", NO_VERDICTS)
def test_a_remedy_whose_process_dies_is_impossible_and_has_no_boundary(outcome: Outcome) -> None:
    made = explained(DyingRunner(Precision.AMP_FP16, 4, outcome))
    half = next(each for each in made.remedies if each.variant.precision is Precision.AMP_FP16)
    assert (half.boundary, "the process died" in half.impossible) == (None, True)


@pytest.mark.parametrize("outcome", [*NO_VERDICTS, Outcome.TIMED_OUT])
def test_an_accumulation_whose_process_dies_is_not_tried_smaller(outcome: Outcome) -> None:
    class Accumulating(InventedRunner):
        def run(self, spec: TrialSpec, *, purpose: Purpose, **others: object) -> Trial:
            trial = super().run(spec, purpose=purpose, **others)
            if spec.accumulation_steps == 1:
                return trial
            why = failure("the process died", certainty=Certainty.UNEXPLAINED)
            return replace(trial, outcome=outcome, measurement=None, failure=why)

    made = explained(Accumulating())
    accumulated = next(each for each in made.remedies if each.accumulation_steps > 1)
    assert (accumulated.boundary, accumulated.impossible) == (None, "the process died")


def test_by_default_the_largest_batch_is_explained_and_its_snapshot_written() -> None:
    runner = InventedRunner()
    made = explained(runner)
    assert made.boundary == Boundary(stop=StopReason.PROVEN, largest=3, first_failure=4)
    assert made.explanation.spec == TrialSpec(variant=VARIANT, batch_size=3)
    first, *others = runner.asked
    assert first.snapshot == str(Path("folder/snapshot.pickle").resolve())
    assert {each.snapshot for each in others} == {None}


def test_a_requested_batch_that_does_not_fit_is_explained() -> None:
    made = explained(InventedRunner(), 7)
    assert made.explanation.spec.batch_size == 7
    assert made.boundary.largest == 3
    assert {each.peak_bytes for each in made.remedies if each.accumulation_steps == 1} == {
        None,
        21 * GIB + 256 * MIB,
        21 * GIB // 2 + 256 * MIB,
    }


def test_if_nothing_fits_the_smallest_batch_is_explained() -> None:
    made = explained(InventedRunner(per_image=13 * GIB, smallest=2))
    assert made.boundary.stop is StopReason.NOTHING_FITS
    assert made.explanation.spec.batch_size == 2
    assert made.remedies[-1].impossible


def test_each_remedy_has_its_largest_batch_or_the_reason_why_it_is_impossible() -> None:
    made = explained(InventedRunner())
    found = {each.name: each for each in made.remedies}
    assert made.remedies[0].name == "amp-fp16"
    assert found["amp-fp16"].largest == 7
    assert found["nhwc"].largest == 3
    # On this stub accumulation takes more memory than one image.
    assert found["accumulation"].largest == 2
    proven = Boundary(stop=StopReason.PROVEN, largest=2, first_failure=3)
    assert found["accumulation"].boundary == proven
    assert found["checkpointing on"].boundary is None
    assert "no residual blocks" in found["checkpointing on"].impossible
    assert made.remedies[-1] == found["checkpointing on"]


def test_a_remedy_keeps_its_largest_batch_if_the_explained_one_cannot_be_played() -> None:
    class Limited(InventedRunner):
        def explain(self, asked: Explain, **others: object) -> Explanation:
            if asked.spec.variant.precision is Precision.AMP_FP16:
                raise DeviceError("a limit of a kernel")
            return super().explain(asked, **others)

    (half,) = (each for each in explained(Limited()).remedies if each.name == "amp-fp16")
    assert (half.largest, half.peak_bytes, half.impossible) == (7, None, "")
