"""Trainings in worker processes: each gives a record, also if its process dies."""

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
from bsprobe.study.records import Ending, LoaderSpec, Loading, Training
from bsprobe.study.runner import StudyRunner
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import encode
from tests.support.builders import VARIANT, failure
from tests.support.commands import ROOT
from tests.support.study_builders import first_training, result

STUB = str(ROOT / "tests" / "support" / "stub_worker.py")


SPEC = first_training()


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Start stubs instead of workers; the device name of the request is their behaviour."""
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


def trained(behaviour: str) -> Training:
    with runner(behaviour) as trainer:
        return trainer.train(SPEC, Path("c"), on_phase=lambda _: None)


def answer(message: TrainingDone | LoadingDone) -> str:
    return f"answer {encode(message).decode().strip()}"


@pytest.mark.parametrize(
    ("done", "ended"),
    [
        (TrainingDone(outcome=Outcome.FITS, result=result(SPEC)), Ending.FINISHED),
        (TrainingDone(outcome=Outcome.FITS, result=result(SPEC, diverged_at=3)), Ending.DIVERGED),
        (TrainingDone(outcome=Outcome.OUT_OF_MEMORY, failure=failure()), Ending.OUT_OF_MEMORY),
    ],
    ids=["finished", "diverged", "out of memory"],
)
def test_a_training_comes_back_with_its_curve_or_its_failure(
    done: TrainingDone, ended: Ending
) -> None:
    training = trained(answer(done))

    assert (training.spec, training.ended) == (SPEC, ended)
    assert (training.result, training.failure) == (done.result, done.failure)


@pytest.mark.parametrize(
    ("behaviour", "ended", "evidence", "attempts"),
    [
        ("kill", Ending.FAILED, "killed by SIGKILL", 2),
        ("exit", Ending.FAILED, "exit status 7", 2),
        ("abort", Ending.OUT_OF_MEMORY, "std::bad_alloc", 1),
    ],
)
def test_the_death_of_the_process_is_a_result(
    behaviour: str, ended: Ending, evidence: str, attempts: int, started: list[str]
) -> None:
    training = trained(behaviour)

    assert training.failure is not None
    assert (training.ended, training.failure.evidence) == (ended, evidence)
    assert started == [behaviour] * attempts


def test_what_is_refused_stops_the_study() -> None:
    with pytest.raises(DeviceError, match="no such thing"):
        trained("refuse")


def test_every_training_has_a_process_of_its_own(started: list[str]) -> None:
    done = TrainingDone(outcome=Outcome.FITS, result=result(SPEC))
    with runner(answer(done)) as trainer:
        for _ in range(3):
            trainer.train(SPEC, Path("c"), on_phase=lambda _: None)

    assert started == ["answer"] * 3


def test_the_sweep_comes_back_as_it_was_measured_or_as_its_failure() -> None:
    loading = Loading(effective_batch=2, micro_batch=2, step_images_per_second=5.0, rates=())
    found: list[Loading | Failure] = []
    for done in (
        LoadingDone(outcome=Outcome.FITS, result=loading),
        LoadingDone(outcome=Outcome.FAILED, failure=failure()),
    ):
        with runner(answer(done)) as trainer:
            sweep = LoaderSpec(training=SPEC, settings=())
            found.append(trainer.measure_loading(sweep, on_phase=lambda _: None))

    assert found == [loading, failure()]
