"""A clock that jumps, and a GPU that disappears."""

import ast
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
import torch

from bsprobe.analysis.search import Process
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Purpose, TrialSpec
from bsprobe.storage.journal import read_journal
from bsprobe.storage.runfile import load_run
from bsprobe.worker import child as worker
from bsprobe.worker import process as worker_process
from bsprobe.worker import runner
from bsprobe.worker.protocol import Message, Progress, RunTrial, TrialDone
from tests.support.builders import VARIANT
from tests.support.commands import ROOT
from tests.support.snapshots import PEAK_RESERVED
from tests.support.stub_gpu import StubGpu
from tests.support.stubbed_bsprobe import RUN, finish, start

SPEC = TrialSpec(variant=VARIANT, batch_size=2)
GONE = torch.AcceleratorError("CUDA error: unspecified launch failure")


class _Backwards(datetime):
    """A wall clock that goes back a day with each call."""

    days = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "datetime":  # type: ignore[override] # returns the base class
        cls.days += 1
        return datetime(2026, 1, 31, 12, tzinfo=tz or UTC) - timedelta(days=cls.days)


def test_a_clock_that_jumps_back_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    command = (sys.executable, str(ROOT / "tests" / "support" / "stub_worker.py"), "arithmetic")
    monkeypatch.setattr(runner, "datetime", _Backwards)
    real = worker_process.Worker
    monkeypatch.setattr(
        worker_process, "Worker", lambda request, **asked: real(request, command=command, **asked)
    )
    with runner.TrialRunner(DeviceRequest(), timeout=20) as trials:
        one, two = (
            trials.run(SPEC, process=Process.ANY, purpose=Purpose.SEARCH, on_phase=lambda _: None)
            for _ in range(2)
        )
    assert one.started_at > two.started_at
    assert 0 <= one.wall_seconds < 20
    assert 0 <= two.wall_seconds < 20


def clock_calls() -> Iterator[tuple[str, str]]:
    """Pairs of file and call for every use of a clock in the package."""
    for path in sorted((ROOT / "bsprobe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"(time|datetime)\.\w+", called):
                yield path.relative_to(ROOT / "bsprobe").as_posix(), called


def test_only_dates_in_records_use_the_wall_clock() -> None:
    wall = {(file, call) for file, call in clock_calls() if not call.startswith("time.")}
    files = (
        "engine/executable_batch.py",
        "study/runner.py",
        "worker/environment.py",
        "worker/runner.py",
        "worker/script/runner.py",
    )
    assert wall == {(file, "datetime.now") for file in files}
    assert {call for _, call in clock_calls() if call.startswith("time.")} <= {
        "time.monotonic",
        "time.perf_counter",
        "time.sleep",
    }


class _LosesItsGpu(StubGpu):
    """A device that loses its GPU after a trial, or in it."""

    def is_clean(self) -> bool:
        raise GONE


def run_trial(device: StubGpu) -> list[Message]:
    """The messages of the worker for one trial on the device."""
    sent: list[Message] = []
    worker.run_trial(
        worker.Session(device=device, request=DeviceRequest(), send=sent.append),
        RunTrial(spec=SPEC),
    )
    return sent


def test_a_gpu_lost_in_a_trial_is_a_failure_not_out_of_memory() -> None:
    *_, phase, done = run_trial(_LosesItsGpu({SPEC.batch_size: GONE}))
    assert phase == Progress(phase="step 1")
    assert isinstance(done, TrialDone)
    assert (done.outcome, done.clean, done.measurement) == (Outcome.FAILED, False, None)
    assert done.failure is not None
    assert done.failure.phase == "step 1"


def test_a_gpu_lost_after_a_trial_keeps_the_measurement() -> None:
    done = run_trial(_LosesItsGpu())[-1]
    assert isinstance(done, TrialDone)
    assert (done.outcome, done.clean) == (Outcome.FITS, False)
    assert done.measurement is not None
    assert done.measurement.peak_reserved_bytes == PEAK_RESERVED


def test_a_run_stops_when_its_gpu_is_lost_and_resumes_when_it_is_back(tmp_path: Path) -> None:
    log = tmp_path / "gpu"
    asked = {"cwd": tmp_path, "behaviour": "gpu-lost"}
    code, _, complaints = finish(start(*RUN, STUB_GPU_LOG=str(log), **asked))  # type: ignore[arg-type] # as written above
    assert (code, complaints.splitlines()[-2:]) == (
        2,
        ["error: there is no GPU in this machine", "hint: probe the CPU"],
    )
    lost = read_journal(tmp_path / "out").trials
    assert [trial.outcome for trial in lost] == [Outcome.FITS, Outcome.FITS, Outcome.FAILED]

    code, _, complaints = finish(start(*RUN, "--resume", cwd=tmp_path))
    assert code == 0, complaints
    run = load_run(tmp_path / "out")
    assert [result.boundary.largest for result in run.results] == [6, 6]
    assert {trial.outcome for trial in run.trials} == {Outcome.FITS, Outcome.OUT_OF_MEMORY}
    assert run.trials[:2] == lost[:2]
