"""Predictions compared with everything recorded on GPUs.

The tolerances detect gross errors. `benchmarks/accuracy.py` reports the progress towards the
project's goals; no test fails because of them.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks.accuracy import checked_boundaries
from benchmarks.accuracy_figures import PEAKS, CheckedBoundary, CheckedTrial, reserved
from benchmarks.evaluated import recorded_device
from benchmarks.truth_prediction import compared, gpu_of, predicted_measurement
from benchmarks.truth_records import ROOT, Machine, Truth, load_machine, load_trial
from benchmarks.truth_versions import version_difference
from benchmarks.validation.history import load_history
from benchmarks.validation.replay import replay_addresses
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.runs import Environment
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.storage.runfile import load_run
from tests.support.fabricated_truth import (
    ELSEWHERE,
    HERE,
    MACHINE,
    truth_trial,
    write_boundary,
    write_machine,
    write_trial,
)
from tests.support.tiny_networks import VARIANT

TRIALS = sorted(ROOT.glob("*/trials/*.json.gz"))
BOUNDARIES = sorted(ROOT.glob("*/boundaries/*/run.json"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="no GPU has been recorded yet"))
FIRST = "nvidia-h100-80gb-hbm3"
"""The card whose recordings are tested in CI; others are tested nightly."""
by_day = [path for path in TRIALS if path.parents[1].name == FIRST]
each_trial = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.name.removesuffix(".json.gz"),
            marks=[] if path in by_day else pytest.mark.nightly,
        )
        for path in TRIALS
    ]
    or [NONE],
)
PEAKS_BY_DAY = (
    "benchmarks-recorded_networks.py-UNet-512x512-amp-fp16-batch-squared_error-nchw-b4_0",
    "deeplabv2-resnet101-512x1024-amp-fp16-batch-nchw-b2-x3_0",
    "deeplabv2-resnet101-512x1024-amp-fp16-batch-nchw-b5-expandable",
    "deeplabv2-resnet101-512x1024-amp-fp16-frozen-nchw-b2_0",
    "timm-vit_base_patch16_224-224x224-amp-bf16-batch-nchw-adamw-b64",
)
"""Recordings whose peak is predicted by day; a prediction of another network takes longer."""
each_chosen_trial = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.name.removesuffix(".json.gz"),
            marks=[] if path.name.startswith(PEAKS_BY_DAY) else pytest.mark.nightly,
        )
        for path in TRIALS
    ]
    or [NONE],
)
each_run = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.parent.name,
            marks=[] if path.parents[2].name == FIRST else pytest.mark.nightly,
        )
        for path in BOUNDARIES
    ]
    or [NONE],
)
LEAST_MATCHED = 0.75
"""Share of matched requests with the recorded versions. The minimum over the first 52 recordings is
0.80, in channels-last, where the workspaces of most convolutions differ from the prediction. One
operator with other tensors than predicted in every block would lower it."""
LEAST_WORKSPACES = 0.20
"""Share of equal workspaces of convolutions; the minimum over those recordings is 0.24."""
PEAK_TOLERANCE = 0.10
"""Relative error of peak reserved with the recorded versions. The prediction is known to keep one
activation too many in each residual block, a few per cent; a missing rule of CUDA or a wrong dtype
causes more than ten."""
PEAK_TOLERANCE_OF_OTHER_VERSIONS = 0.20
"""Relative error of peak reserved with another PyTorch or cuDNN. Its workspaces alone change
predicted peaks by up to 7.8 % (median 0.5 %): the 80 trials of tier 1, predicted for an H100 with
PyTorch 2.14.1 and cuDNN 9.24.0 and with PyTorch 2.11.0 and cuDNN 9.19.0. The sum of this change and
an accepted error must pass."""
BOUNDARY_TOLERANCE = 0.10
"""Relative error of a boundary, at least one image: if a boundary of 6 is predicted as 5, the peak
is wrong by less than one image's memory. With other versions 27 of 30 boundaries of tier 2 were
predicted exactly, the others off by one, so one tolerance is enough."""


@cache
def device_of(folder: Path) -> SimulatedDevice:
    """Return one device for all trials of a machine, since batches share the traced step."""
    return recorded_device(gpu_of(machine_of(folder)), None)


def machine_of(folder: Path) -> Machine:
    machine = load_machine(folder)
    assert machine is not None, f"{folder} has no machine.json"
    return machine


def checked_trial(path: Path) -> CheckedTrial:
    trial, folder = load_trial(path), path.parents[1]
    if trial.measurement is None:
        pytest.skip("it did not run")
    if trial.spec.variant.model.endswith(":segformer"):
        pytest.importorskip("transformers")
    return CheckedTrial(
        machine=folder.name,
        trial=trial,
        predicted=predicted_measurement(trial, device_of(folder)),
        requests=None,
    )


def peak_tolerance(folder: Path) -> float:
    is_recorded = version_difference(machine_of(folder)) is None
    return PEAK_TOLERANCE if is_recorded else PEAK_TOLERANCE_OF_OTHER_VERSIONS


def check_peak(path: Path) -> None:
    trial = checked_trial(path)
    # The first peak with plan timing is unknown here: cuDNN reports its memory only on the card.
    times_plans = trial.trial.spec.variant.cudnn_benchmark is CudnnBenchmark.ON
    error = trial.error(PEAKS["later steps, reserved"] if times_plans else reserved)
    assert error is not None
    assert abs(error) <= peak_tolerance(path.parents[1])


def boundaries_of(path: Path) -> list[CheckedBoundary]:
    """Return the proven boundaries of one run with their predictions."""
    folder = path.parents[2]
    truth = Truth(
        name=folder.name, machine=machine_of(folder), trials=(), boundaries=(load_run(path),)
    )
    return list(checked_boundaries(truth))


def check_boundaries(path: Path) -> None:
    far_off = [
        each
        for each in boundaries_of(path)
        if abs(each.difference) > max(1, BOUNDARY_TOLERANCE * each.measured)
    ]
    assert far_off == []


@each_trial
def test_every_block_lands_on_the_address_that_it_had_on_the_gpu(path: Path) -> None:
    if not load_trial(path).marks:
        pytest.skip("no history: the trial was timed or its process died")
    history = load_history(path)
    assert replay_addresses(history) == history.result


@pytest.mark.nightly
@each_trial
def test_most_sizes_are_asked_for_in_the_same_order(path: Path) -> None:
    machine = machine_of(path.parents[1])
    differing = version_difference(machine)
    if differing is not None:
        pytest.skip(f"this environment has {differing}: bash benchmarks/judge.sh compares requests")
    trial = load_trial(path)
    if not trial.marks or trial.measurement is None:
        pytest.skip("there is no history of a whole step")
    found = compared(path, trial, machine)
    first = [difference.describe() for difference in found.differences[:5]]
    assert found.matched >= LEAST_MATCHED * max(found.predicted, found.recorded), first
    assert found.workspaces_equal >= LEAST_WORKSPACES * found.convolutions, first


@each_chosen_trial
def test_the_predicted_peak_is_near_the_measured_one(path: Path) -> None:
    check_peak(path)


@pytest.mark.nightly
@each_run
def test_a_predicted_boundary_is_near_the_proven_one(path: Path) -> None:
    check_boundaries(path)


# The checks themselves, with fabricated records.


@pytest.fixture
def folder(tiny: None, tmp_path: Path) -> Path:  # noqa: ARG001 - a fixture
    write_machine(tmp_path / "card")
    return tmp_path / "card"


@pytest.mark.parametrize(
    ("environment", "tolerated"), [(HERE, 0.10), (ELSEWHERE, 0.20)], ids=["here", "elsewhere"]
)
def test_a_peak_that_is_grossly_wrong_is_found_by_any_versions(
    folder: Path, environment: Environment, tolerated: float
) -> None:
    write_machine(folder, replace(MACHINE, environment=environment))
    for error, passes in ((-0.01, True), (0.01, False)):
        for sign in (1, -1):
            scale = 1 / (1 + sign * (tolerated + error))
            path = write_trial(folder, truth_trial(scale=scale), None)
            with nullcontext() if passes else pytest.raises(AssertionError):
                check_peak(path)


def test_a_boundary_that_is_grossly_wrong_is_found(folder: Path) -> None:
    run = folder / "boundaries" / "fabricated" / "run.json"
    write_boundary(folder, 20)
    (first,) = boundaries_of(run)
    assert first.variant == VARIANT
    for measured, passes in (
        (first.predicted, True),
        (round(first.predicted / 1.09), True),
        (round(first.predicted / 1.12), False),
        (round(first.predicted / 0.88), False),
    ):
        run.unlink()
        run.parent.rmdir()
        write_boundary(folder, measured)
        with nullcontext() if passes else pytest.raises(AssertionError):
            check_boundaries(run)
