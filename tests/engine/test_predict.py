"""Predictions that guide a search: made, used, refused, and shown beside measurements."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from rich.console import Console

from bsprobe.analysis.expectation import Expected
from bsprobe.analysis.memory_line import Line
from bsprobe.cli.options.run import settings_from, settings_options
from bsprobe.engine.predict import Predictor, card_of, check_can_guide, predictor_for
from bsprobe.engine.probe import RunTrial
from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest, Prediction, Run, SearchMethod, Settings
from bsprobe.records.trials import Purpose, Source, Trial, TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.report.run import markdown, plan, terminal
from bsprobe.report.run.progress import TrialProgress
from bsprobe.report.run.sentences import guided_by
from bsprobe.report.run.tables import recommendation_table, trials_table
from bsprobe.storage.runfile import load_run, save_run
from bsprobe.worker import process as worker_process
from bsprobe.worker.runner import TrialRunner
from tests.support.builders import (
    AMP,
    DEVICE,
    VARIANT,
    ArithmeticGpu,
    affine_need,
    broke,
    failure,
    probed_run,
    settings,
)
from tests.support.commands import ROOT

STUB = ROOT / "tests" / "support" / "stub_worker.py"
GUIDED = replace(settings(), search=SearchMethod.GUIDED)


def simulated(needed_bytes: Callable[[TrialSpec], int] = affine_need) -> RunTrial:
    """Make a card like `SimulatedDevice`: it times nothing and is empty before each trial."""

    def predicted(trial: Trial) -> Trial:
        figures = trial.measurement
        if figures is not None:
            figures = replace(figures, step_seconds=(), images_per_second=None)
        return replace(trial, source=Source.PREDICTED, fresh_process=True, measurement=figures)

    return ArithmeticGpu(needed_bytes, alter=predicted)


def predictor(run_trial: RunTrial) -> Predictor:
    return Predictor(run_trial, DEVICE, GUIDED)


def predicted(run_trial: RunTrial) -> Prediction:
    return predictor(run_trial)(VARIANT, on_phase=lambda _: None)


def probed(
    tmp_path: Path, measured: ArithmeticGpu, predict: Predictor | None, *, chosen: Settings = GUIDED
) -> Run:
    return probed_run(tmp_path, chosen, run_trial=measured, predict=predict)


def heavier(extra_bytes: int) -> Callable[[TrialSpec], int]:
    return lambda spec: affine_need(spec) + extra_bytes


# Making a prediction.


def test_a_prediction_has_the_boundary_and_the_peaks_of_its_trials() -> None:
    # 2 GiB and 1.5 an image of 20 GiB: 12 images.
    found = predicted(simulated())
    assert found == Prediction(
        largest=12,
        peaks=tuple((batch, 2 * GIB + batch * 1536 * MIB) for batch in (1, 2, 4, 6, 8, 12)),
    )
    assert Expected.of(found) == Expected(
        largest=12, line=Line(fixed_bytes=2.0 * GIB, per_image_bytes=1536.0 * MIB)
    )


def test_a_prediction_that_nothing_fits_guides_no_search() -> None:
    found = predicted(simulated(heavier(19 * GIB)))
    assert found == Prediction(largest=None)
    assert Expected.of(found) is None


def test_a_failed_prediction_has_the_reason() -> None:
    def refuse(*_: object, **__: object) -> Trial:
        raise DeviceError("this network cannot be traced: aten::nonzero")

    def fail(spec: TrialSpec, **_: object) -> Trial:
        trial = broke(spec.batch_size, Outcome.FAILED, failure("KeyError: 'x'"))
        return replace(trial, spec=spec)

    assert predicted(refuse).detail == "this network cannot be traced: aten::nonzero"
    assert predicted(fail) == Prediction(largest=None, detail="KeyError: 'x'")


def test_a_compiled_network_is_predicted_as_if_not_compiled_and_marked() -> None:
    def uncompiled(trial: Trial) -> Trial:
        assert trial.measurement is not None or not trial.ran
        if trial.measurement is None:
            return trial
        facts = replace(trial.measurement.model, assumptions=(Assumption.NOT_COMPILED,))
        return replace(trial, measurement=replace(trial.measurement, model=facts))

    found = predicted(ArithmeticGpu(alter=uncompiled))
    assert (found.largest, found.assumptions) == (12, (Assumption.NOT_COMPILED,))
    assert guided_by(found, GUIDED) == "Predicted largest 12 (as if not compiled)"


def test_the_card_is_from_the_catalogue_with_the_memory_of_the_device() -> None:
    assert card_of(DEVICE) == replace(find_gpu("RTX 4090"), total_bytes=24 * GIB)
    unknown = replace(DEVICE, name="NVIDIA Imaginary 1")
    assert (card_of(unknown).total_bytes, card_of(unknown).compute_capability) == (24 * GIB, "8.9")
    # Two cards of the catalogue have this name; they differ in memory.
    ambiguous = replace(DEVICE, name="NVIDIA GeForce RTX 4060 Ti")
    assert card_of(ambiguous) == card_of(unknown)
    with pytest.raises(UsageError, match=r"NVIDIA Imaginary 1 cannot be predicted: .* 13\.0"):
        card_of(replace(unknown, compute_capability="13.0"))


def test_a_separate_worker_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    variant = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=64))
    chosen = replace(settings(variant, max_batch=2), search=SearchMethod.GUIDED)
    with predictor_for(chosen, DEVICE) as predict:
        assert predict is not None
        found = predict(variant, on_phase=lambda _: None)
    assert (found.largest, [batch for batch, _ in found.peaks]) == (2, [1, 2])
    assert found.peaks[0][1] > find_gpu("RTX 4090").outside_allocator_bytes + 3 * 95 * MIB


def test_an_ordinary_search_starts_no_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsprobe.engine.predict.TrialRunner", None)
    with predictor_for(settings(), DEVICE) as predict:
        assert predict is None


# Refusing a prediction.


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [(DeviceKind.CPU, "--search guided .* CPU"), (DeviceKind.SIMULATED, "--search guided .* GPU")],
)
def test_a_device_that_cannot_be_predicted_and_measured_is_refused(
    kind: DeviceKind, complaint: str
) -> None:
    with (
        pytest.raises(UsageError, match=complaint),
        predictor_for(GUIDED, replace(DEVICE, kind=kind)),
    ):
        pass
    check_can_guide("cuda")


# Using a prediction.


def test_a_right_prediction_takes_three_trials_to_the_boundary(tmp_path: Path) -> None:
    gpu = ArithmeticGpu()
    (result,) = probed(tmp_path, gpu, predictor(simulated())).results
    assert [spec.batch_size for spec, _ in gpu.asked] == [6, 12, 13, 11, 10]
    assert (result.boundary.largest, result.boundary.is_exact) == (12, True)
    assert result.recommendation is not None
    assert result.recommendation.safe == 11
    assert result.recommendation.plan.micro_batch == 10


def test_a_resumed_guided_run_repeats_no_trial(tmp_path: Path) -> None:
    whole = probed(tmp_path, ArithmeticGpu(), predictor(simulated()))
    gpu = ArithmeticGpu()
    resumed = probed_run(
        tmp_path / "again",
        GUIDED,
        run_trial=gpu,
        known=whole.trials[:2],
        predict=predictor(simulated()),
    )
    assert [spec.batch_size for spec, _ in gpu.asked] == [13, 11, 10]
    assert resumed.results == whole.results


def test_a_prediction_off_by_two_is_corrected_by_the_first_trial(tmp_path: Path) -> None:
    gpu = ArithmeticGpu(heavier(3 * GIB))
    (result,) = probed(tmp_path, gpu, predictor(simulated())).results
    assert [spec.batch_size for spec, _ in gpu.asked][:3] == [6, 10, 11]
    assert result.boundary.largest == 10


def test_without_a_prediction_the_search_is_the_ordinary_one(tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> Trial:
        raise DeviceError("untraceable")

    gpu = ArithmeticGpu()
    run = probed(tmp_path, gpu, predictor(refuse))
    assert [spec.batch_size for spec, _ in gpu.asked][:5] == [1, 2, 4, 8, 16]
    assert "No prediction guided the search: untraceable." in terminal.render(run)


# Showing a prediction.


def test_a_report_has_predicted_beside_measured(tmp_path: Path) -> None:
    chosen = replace(settings(VARIANT, AMP), search=SearchMethod.GUIDED)
    gpu = ArithmeticGpu(heavier(1 * GIB))
    run = probed(tmp_path, gpu, predictor(simulated()), chosen=chosen)
    text = markdown.render(run, plots=(), snippet=None)
    compared = text.partition("## Predicted and measured")[2]
    row = next(line for line in compared.splitlines() if line.startswith("| fp32 / batch |"))
    assert [cell.strip() for cell in row.split("|")][2:4] == ["12", "11"]
    assert "-8.3%" in row
    printed = terminal.render(run)
    assert "12 (measured 11; peak at batch 6 -8.3%)" in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
    save_run(run, tmp_path)
    assert load_run(tmp_path) == run


def test_the_tables_have_predicted_beside_measured(tmp_path: Path) -> None:
    gpu = ArithmeticGpu(heavier(1 * GIB))
    run = probed(tmp_path, gpu, predictor(simulated()))
    trials = trials_table(run)
    columns = ["batch_size", "outcome", "peak_bytes", "predicted_peak_bytes"]
    assert trials[columns].to_numpy().tolist() == [
        [6, "fits", 12 * GIB, 11 * GIB],
        [11, "fits", 19 * GIB + GIB // 2, None],
        [12, "out of memory", None, 20 * GIB],
        [10, "fits", 18 * GIB, None],
    ]
    results = recommendation_table(run)
    assert results[["largest", "predicted_largest"]].to_numpy().tolist() == [[11, 12]]


def test_the_progress_shows_the_prediction_first(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    progress = TrialProgress(GUIDED, console)
    probed_run(tmp_path, GUIDED, listener=progress, predict=predictor(simulated()))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined] # a StringIO
    assert lines[:3] == [
        "[1/1] fp32 / batch",
        "  Predicted largest 12",
        "  batch 6     ok              11.0 GiB       30 images/s (search, 4.2 s)",
    ]


def test_a_prediction_that_ends_at_the_largest_allowed_batch_is_shown_as_at_least(
    tmp_path: Path,
) -> None:
    chosen = replace(GUIDED, max_batch=5)
    predict = Predictor(simulated(), DEVICE, chosen)
    run = probed(tmp_path, ArithmeticGpu(), predict, chosen=chosen)
    printed = " ".join(terminal.render(run).split())
    assert "at least 5 (measured at least 5;" in printed


def test_the_plan_of_a_guided_run_describes_its_search() -> None:
    assert "half the predicted batch" in plan.render(GUIDED, None, DEVICE)


def test_an_unguided_run_shows_no_prediction(tmp_path: Path) -> None:
    run = probed(tmp_path, ArithmeticGpu(), None, chosen=settings())
    assert "Predicted" not in markdown.render(run, plots=(), snippet=None) + terminal.render(run)


# With stub workers.


def test_a_measured_gpu_is_guided_by_another_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = worker_process.Worker
    requests: list[DeviceRequest] = []

    def stub(request: DeviceRequest, **_: object) -> worker_process.Worker:
        requests.append(request)
        return real(request, command=(sys.executable, str(STUB), "gpu"))

    monkeypatch.setattr(worker_process, "Worker", stub)
    chosen = replace(GUIDED, max_batch=4, device=DeviceRequest(device="cuda"))
    with (
        TrialRunner(chosen.device, timeout=20) as measuring,
        predictor_for(chosen, measuring.ready.device) as predict,
    ):
        run = probed_run(
            tmp_path,
            chosen,
            run_trial=measuring.run,
            predict=predict,
            device=measuring.ready.device,
        )
    (result,) = run.results
    assert result.prediction is not None
    predicting = [each for each in requests if each.gpu is not None]
    assert len(predicting) == 1
    assert len(requests) > len(predicting)
    # The stub runs every batch, and four is the largest allowed.
    assert result.prediction.largest == 4
    searched = [t.spec.batch_size for t in run.trials if t.purpose is not Purpose.RECOMMENDED]
    assert searched[:2] == [2, 4]


def test_the_command_line_accepts_guided_only_for_a_gpu() -> None:
    found: list[Settings] = []

    @click.command()
    @settings_options
    def command(**given: object) -> None:
        found.append(settings_from(given))

    command.main(["--search", "guided"], standalone_mode=False)
    for options in (["--device", "cpu"], ["--gpu", "RTX 3090"]):
        command.main(options, standalone_mode=False)
        with pytest.raises(UsageError, match="--search guided"):
            command.main(["--search", "guided", *options], standalone_mode=False)
    assert [each.search for each in found] == [SearchMethod.GUIDED, *[SearchMethod.ORDINARY] * 2]
