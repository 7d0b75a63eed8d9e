"""The parent survives whatever a worker does, and writes it down."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bsprobe.analysis.search import Process
from bsprobe.records.errors import DeviceError, WorkerError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Failure, Purpose, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Norm, Variant
from bsprobe.worker import process as worker_process
from bsprobe.worker.process import Worker
from bsprobe.worker.protocol import Record, TrialDone
from bsprobe.worker.runner import TrialRunner
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


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_worker_is_being_started_leaves_none(
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


def test_a_trial_that_ends_well_comes_back_as_it_was_sent() -> None:
    done, phases = run_once("succeed")
    assert (done.outcome, done.clean, phases) == (Outcome.FITS, True, ["step 1"])
    assert done.measurement is not None
    assert done.measurement.peak_allocated_bytes == 200


def test_a_killed_worker_is_probably_out_of_memory() -> None:
    done, _ = run_once("kill")
    assert done == TrialDone(
        outcome=Outcome.OUT_OF_MEMORY,
        failure=Failure(
            message="the process died (killed by SIGKILL)",
            certainty=Certainty.PROBABLE,
            evidence="killed by SIGKILL",
            phase="building",
        ),
        clean=False,
    )


def test_the_last_words_of_an_aborted_worker_make_it_certain() -> None:
    done, _ = run_once("abort")
    assert done.failure is not None
    assert (done.outcome, done.failure.certainty, done.failure.evidence) == (
        Outcome.OUT_OF_MEMORY,
        Certainty.CERTAIN,
        "std::bad_alloc",
    )


def test_a_worker_that_exits_by_itself_is_a_bug_not_out_of_memory() -> None:
    done, _ = run_once("exit")
    assert (done.outcome, done.failure and done.failure.evidence) == (
        Outcome.FAILED,
        "exit status 7",
    )


def test_a_worker_that_hangs_is_killed_at_the_time_out() -> None:
    start = time.monotonic()
    done, phases = run_once("hang", timeout=0.5)
    assert done.outcome is Outcome.TIMED_OUT
    assert done.failure is not None
    assert (done.failure.phase, phases) == ("step 2", ["step 2"])
    assert time.monotonic() - start < 10


def test_what_a_dead_worker_had_started_is_killed_too() -> None:
    _, phases = run_once("die-with-child")
    (child,) = [int(phase.removeprefix("child ")) for phase in phases]
    for _ in range(50):
        if not is_alive(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} was left behind")


def test_a_worker_that_speaks_nonsense_is_an_error_of_one_line() -> None:
    with pytest.raises(WorkerError, match="the worker spoke nonsense: it is not JSON"):
        run_once("nonsense")


def test_a_refused_trial_keeps_the_workers_hint() -> None:
    with pytest.raises(DeviceError) as refused:
        run_once("refuse")
    assert (str(refused.value), refused.value.hint) == ("no such thing", "try another")


def test_a_refused_device_keeps_the_workers_hint() -> None:
    with pytest.raises(DeviceError) as refused:
        Worker(DeviceRequest(), command=stub("refuse-device"))
    assert (str(refused.value), refused.value.hint) == ("no GPU", "buy one")


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerError) as failed:
        Worker(DeviceRequest(), command=stub("fail-to-start"))
    assert str(failed.value) == (
        "the worker could not start: ImportError: libcudart.so.13 not found"
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the runner start stubs, and count them by what they are to do."""
    started: list[str] = []

    class Stub(Worker):
        def __init__(self, request: DeviceRequest, **options: Any) -> None:
            behaviour = "dirty" if request.memory_limit_bytes == 1 else "succeed"
            started.append(behaviour)
            super().__init__(request, command=stub(behaviour), **options)

    monkeypatch.setattr(worker_process, "Worker", Stub)
    return started


def ignore(phase: str) -> None:
    """Progress is of no interest here."""


def test_one_process_serves_a_variant_while_it_stays_clean(counted: list[str]) -> None:
    with TrialRunner(DeviceRequest(), timeout=20) as trials:
        made = [
            trials.run(SPEC, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=ignore)
            for _ in range(3)
        ]
    assert [trial.fresh_process for trial in made] == [True, False, False]
    assert len(counted) == 1


def test_a_fresh_process_is_started_where_one_is_asked_for(counted: list[str]) -> None:
    with TrialRunner(DeviceRequest(), timeout=20) as trials:
        made = [
            trials.run(SPEC, process=process, purpose=Purpose.PROOF, on_phase=ignore)
            for process in (Process.FRESH, Process.FRESH, Process.ANY, Process.FRESH)
        ]
    assert [trial.fresh_process for trial in made] == [True, True, False, True]
    assert len(counted) == 3


def test_another_variant_gets_a_process_of_its_own(counted: list[str]) -> None:
    other = TrialSpec(
        variant=Variant(model=VARIANT.model, resolution=VARIANT.resolution, norm=Norm.GROUP),
        batch_size=2,
    )
    with TrialRunner(DeviceRequest(), timeout=20) as trials:
        made = [
            trials.run(spec, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=ignore)
            for spec in (SPEC, other)
        ]
    assert [trial.fresh_process for trial in made] == [True, True]
    assert len(counted) == 2


def test_a_process_whose_memory_did_not_come_back_is_not_used_again(counted: list[str]) -> None:
    with TrialRunner(DeviceRequest(memory_limit_bytes=1), timeout=20) as trials:
        made = [
            trials.run(SPEC, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=ignore)
            for _ in range(2)
        ]
    assert [trial.fresh_process for trial in made] == [True, True]
    assert counted == ["dirty", "dirty"]


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
    assert [worker.trials_run for worker in started] == [0, 0]  # each its own, and no trial before


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
