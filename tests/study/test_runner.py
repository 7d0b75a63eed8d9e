"""A training always comes back as a record, whatever its process does."""

import sys
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.errors import DeviceError
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import DataSource, Failure
from bsprobe.study import runner as study_runner
from bsprobe.study.messages import LoadingDone, TrainingDone
from bsprobe.study.plan import next_training
from bsprobe.study.records import Ending, LoaderSpec, Loading, Training, TrainingSpec
from bsprobe.study.runner import StudyRunner
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import encode
from tests.support.builders import VARIANT, failure
from tests.support.commands import ROOT
from tests.support.study_builders import result, study_settings

STUB = str(ROOT / "tests" / "support" / "stub_worker.py")


@pytest.fixture
def spec() -> TrainingSpec:
    found = next_training(study_settings(), [], on_gpu=False, processors=1)
    assert found is not None
    return found


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Start stubs instead of workers; what they do is the request's device name."""
    names: list[str] = []

    class Stub(Worker):
        def __init__(self, request: DeviceRequest, **given: Any) -> None:
            behaviour = request.device or ""
            names.append(behaviour.split()[0])
            command = (sys.executable, STUB, *behaviour.split(" ", 1))
            super().__init__(request, **{**given, "command": command})

    monkeypatch.setattr(study_runner, "Worker", Stub)
    return names


def runner(behaviour: str) -> StudyRunner:
    return StudyRunner(
        DeviceRequest(device=behaviour), variant=VARIANT, data=DataSource(root="D"), timeout=10
    )


def trained(behaviour: str, spec: TrainingSpec) -> Training:
    with runner(behaviour) as trainer:
        return trainer.train(spec, Path("c"), on_phase=lambda _: None)


def answer(message: TrainingDone | LoadingDone) -> str:
    return f"answer {encode(message).decode().strip()}"


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(("diverged_at", "ended"), [(None, Ending.FINISHED), (3, Ending.DIVERGED)])
def test_a_training_that_ran_comes_back_with_its_curve(
    spec: TrainingSpec, diverged_at: int | None, ended: Ending
) -> None:
    done = TrainingDone(outcome=Outcome.FITS, result=result(spec, diverged_at=diverged_at))

    training = trained(answer(done), spec)

    assert (training.spec, training.ended, training.failure) == (spec, ended, None)
    assert training.result == done.result


@pytest.mark.usefixtures("started")
def test_a_training_that_ran_out_of_memory_is_a_result(spec: TrainingSpec) -> None:
    done = TrainingDone(outcome=Outcome.OUT_OF_MEMORY, failure=failure())

    training = trained(answer(done), spec)

    assert (training.ended, training.result, training.failure) == (
        Ending.OUT_OF_MEMORY,
        None,
        failure(),
    )


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("behaviour", "ended", "message"),
    [
        ("kill", Ending.OUT_OF_MEMORY, "the process died (killed by SIGKILL)"),
        ("exit", Ending.FAILED, "the process died (exit status 7)"),
    ],
)
def test_the_death_of_the_process_is_a_result(
    spec: TrainingSpec, behaviour: str, ended: Ending, message: str
) -> None:
    training = trained(behaviour, spec)

    assert training.failure is not None
    assert (training.ended, training.failure.message) == (ended, message)


@pytest.mark.usefixtures("started")
def test_what_is_refused_stops_the_study(spec: TrainingSpec) -> None:
    with pytest.raises(DeviceError, match="no such thing"):
        trained("refuse", spec)


def test_every_training_has_a_process_of_its_own(spec: TrainingSpec, started: list[str]) -> None:
    done = TrainingDone(outcome=Outcome.FITS, result=result(spec))
    with runner(answer(done)) as trainer:
        for _ in range(3):
            trainer.train(spec, Path("c"), on_phase=lambda _: None)

    assert started == ["answer"] * 3


@pytest.mark.usefixtures("started")
def test_the_sweep_comes_back_as_it_was_measured_or_as_its_failure(spec: TrainingSpec) -> None:
    loading = Loading(effective_batch=2, micro_batch=2, step_images_per_second=5.0, rates=())
    found: list[Loading | Failure] = []
    for done in (
        LoadingDone(outcome=Outcome.FITS, result=loading),
        LoadingDone(outcome=Outcome.FAILED, failure=failure()),
    ):
        with runner(answer(done)) as trainer:
            sweep = LoaderSpec(training=spec, settings=())
            found.append(trainer.measure_loading(sweep, on_phase=lambda _: None))

    assert found == [loading, failure()]
