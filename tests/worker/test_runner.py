"""The parent records every ending of a worker."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from bsprobe.analysis.search import Process
from bsprobe.records.errors import DeviceError, WorkerError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Purpose, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Norm, Variant
from bsprobe.worker import process as worker_process
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import Record, TrialDone
from bsprobe.worker.runner import TrialRunner
from tests.support.births import is_alive
from tests.support.commands import ROOT

STUB = str(ROOT / "tests" / "support" / "stub_worker.py")
VARIANT = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=64))
SPEC = TrialSpec(variant=VARIANT, batch_size=2)


def stub(behaviour: str) -> tuple[str, ...]:
    return (sys.executable, STUB, behaviour)


def run_once(behaviour: str, *, timeout: float = 20) -> tuple[TrialDone, list[str]]:
    phases: list[str] = []
    worker = Worker(DeviceRequest(), command=stub(behaviour))
    try:
        return worker.run(SPEC, timeout=timeout, on_phase=phases.append), phases
    finally:
        worker.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_during_the_start_of_a_worker_leaves_no_process(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(number)

    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Worker(DeviceRequest(), command=stub("succeed"))
    finally:
        signal.signal(signal.SIGTERM, before)

    assert [process.poll() is not None for process in started] == [True]


def test_a_successful_trial_is_received_as_it_was_sent() -> None:
    done, phases = run_once("succeed")
    assert (done.outcome, done.clean, phases) == (Outcome.FITS, True, ["step 1"])
    assert done.measurement is not None
    assert done.measurement.peak_allocated_bytes == 200


@pytest.mark.parametrize(
    ("behaviour", "outcome", "certainty", "evidence"),
    [
        ("kill", Outcome.FAILED, Certainty.UNEXPLAINED, "killed by SIGKILL"),
        ("abort", Outcome.OUT_OF_MEMORY, Certainty.CERTAIN, "std::bad_alloc"),  # on stderr
        ("exit", Outcome.FAILED, Certainty.UNEXPLAINED, "exit status 7"),
    ],
)
def test_the_death_of_a_worker_is_the_outcome_of_its_trial(
    behaviour: str, outcome: Outcome, certainty: Certainty, evidence: str
) -> None:
    done, _ = run_once(behaviour)
    assert done.failure is not None
    assert (done.outcome, done.clean) == (outcome, False)
    assert (done.failure.certainty, done.failure.evidence) == (certainty, evidence)
    assert done.failure.phase == "building"


def test_a_worker_that_hangs_is_killed_at_the_time_out() -> None:
    start = time.monotonic()
    done, phases = run_once("hang", timeout=0.5)
    assert done.outcome is Outcome.TIMED_OUT
    assert done.failure is not None
    assert (done.failure.phase, phases) == ("step 2", ["step 2"])
    assert time.monotonic() - start < 10


def test_processes_that_a_dead_worker_started_are_killed() -> None:
    _, phases = run_once("die-with-child")
    (child,) = [int(phase.removeprefix("child ")) for phase in phases]
    for _ in range(50):
        if not is_alive(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} was left behind")


def test_an_invalid_message_from_a_worker_is_an_error() -> None:
    with pytest.raises(WorkerError, match=r"invalid message .* not JSON"):
        run_once("nonsense")


def test_a_refused_trial_or_device_keeps_the_workers_hint() -> None:
    refusals = {"refuse": ("no such thing", "try another"), "refuse-device": ("no GPU", "buy one")}
    for behaviour, said in refusals.items():
        with pytest.raises(DeviceError) as refused:
            run_once(behaviour)
        assert (str(refused.value), refused.value.hint) == said


def test_the_error_of_a_worker_that_cannot_start_has_its_last_line() -> None:
    with pytest.raises(WorkerError, match=r"start: ImportError: libcudart\.so\.13"):
        Worker(DeviceRequest(), command=stub("fail-to-start"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the runner start stubs, and list their behaviours."""
    started: list[str] = []

    class Stub(Worker):
        def __init__(self, request: DeviceRequest, **options: Any) -> None:
            behaviour = "dirty" if request.memory_limit_bytes == 1 else "succeed"
            started.append(behaviour)
            super().__init__(request, command=stub(behaviour), **options)

    monkeypatch.setattr(worker_process, "Worker", Stub)
    return started


OTHER = replace(SPEC, variant=replace(VARIANT, norm=Norm.GROUP))
ANY, FRESH = Process.ANY, Process.FRESH


@pytest.mark.parametrize(
    ("limit", "asked", "are_fresh", "started"),
    [
        pytest.param(None, [(SPEC, ANY)] * 3, [1, 0, 0], 1, id="while it stays clean"),
        pytest.param(
            *(None, [(SPEC, process) for process in (FRESH, FRESH, ANY, FRESH)]),
            *([1, 1, 0, 1], 3),
            id="if a fresh one is requested",
        ),
        pytest.param(None, [(SPEC, ANY), (OTHER, ANY)], [1, 1], 2, id="for another variant"),
        pytest.param(1, [(SPEC, ANY)] * 2, [1, 1], 2, id="whose memory did not come back"),
    ],
)
def test_a_process_serves_one_variant_while_it_stays_clean_and_no_fresh_one_is_asked_for(
    limit: int | None,
    asked: list[tuple[TrialSpec, Process]],
    are_fresh: list[bool],
    started: int,
    counted: list[str],
) -> None:
    with TrialRunner(DeviceRequest(memory_limit_bytes=limit), timeout=20) as trials:
        made = [
            trials.run(spec, process=process, purpose=Purpose.SEARCH, on_phase=lambda _: None)
            for spec, process in asked
        ]
    assert [trial.fresh_process for trial in made] == are_fresh
    assert counted == ["dirty" if limit else "succeed"] * started


def test_a_recording_whose_worker_dies_has_a_failure_and_leaves_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Worker] = []

    def start(request: DeviceRequest, **asked: object) -> Worker:
        del asked
        started.append(Worker(request, command=stub("kill")))
        return started[-1]

    monkeypatch.setattr(worker_process, "Worker", start)
    with TrialRunner(DeviceRequest(), timeout=20) as trials:
        for _ in range(2):
            found = trials.record(Record(spec=SPEC, snapshot="x"), on_phase=lambda _: None)
            assert found.trial is None
            assert found.failure is not None
            assert found.failure.evidence == "killed by SIGKILL"
    # Each recording has two attempts, and each attempt its own worker.
    assert [worker.trials_run for worker in started] == [0] * 4


def test_a_recording_is_never_made_in_a_process_that_has_run_a_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behaviours = iter(("succeed", "refuse"))

    def start(request: DeviceRequest, **asked: object) -> Worker:
        del asked
        return Worker(request, command=stub(next(behaviours)))

    monkeypatch.setattr(worker_process, "Worker", start)
    with TrialRunner(DeviceRequest(), timeout=20) as trials:
        trials.run(SPEC, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=lambda _: None)
        with pytest.raises(DeviceError, match="no such thing"):
            trials.record(Record(spec=SPEC, snapshot="x"), on_phase=lambda _: None)
    assert next(behaviours, None) is None
