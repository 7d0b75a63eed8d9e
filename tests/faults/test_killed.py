"""Killed runs: finished trials are kept, and a resumed run has the same result."""

import json
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from bsprobe.records.runs import StopReason
from bsprobe.storage.journal import NAME
from bsprobe.storage.runfile import load_run
from tests.support.commands import assert_no_trial_was_repeated
from tests.support.stubbed_bsprobe import RUN, findings, finish, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


def whole_lines(folder: Path) -> list[bytes]:
    """The complete lines of the journal."""
    path = folder / NAME
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def resume(folder: Path) -> list[str]:
    """The option `--resume` if a run has begun."""
    return ["--resume"] if (folder / NAME).exists() else []


def kill_after(seconds: float, place: Path) -> list[str]:
    """Resume the run, kill it, and return the trials it had printed."""
    process = start(*RUN, *resume(place / "out"), cwd=place)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    return [line for line in told.splitlines() if line.startswith("  batch")]


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_ten_random_moments_has_the_same_result(
    tmp_path: Path, undisturbed: tuple[Path, float], seed: int
) -> None:
    """Ten kills between the first import and the last plot."""
    reference, seconds = undisturbed
    chance = random.Random(seed)
    out = tmp_path / "out"
    for _ in range(10):
        before = whole_lines(out)
        told = kill_after(chance.uniform(0, seconds), tmp_path)
        after = whole_lines(out)
        assert after[: len(before)] == before
        assert max(0, len(after) - 1) >= len(told), "a trial was shown and is not on the disk"
        if (out / "run.json").exists():  # complete, as it is renamed into place
            assert findings(out) == findings(reference)
            shutil.rmtree(out)
    code, _, complaints = finish(start(*RUN, *resume(out), cwd=tmp_path))
    assert (code, "Traceback" in complaints) == (0, False), complaints
    assert findings(out) == findings(reference)
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in reference.iterdir()}
    assert_no_trial_was_repeated(out)


@pytest.mark.nightly
def test_a_run_killed_while_it_writes_files_leaves_complete_ones(
    tmp_path: Path, reference: Path
) -> None:
    process = start(*RUN, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "trials.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert findings(tmp_path / "out") == findings(reference)
    assert finish(start("report", "out", cwd=tmp_path))[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in reference.iterdir()
    }


def test_a_worker_that_dies_out_of_memory_ends_the_trial_not_the_run(
    tmp_path: Path, reference: Path
) -> None:
    code, printed, complaints = finish(start(*RUN, cwd=tmp_path, behaviour="aborted"))
    assert code == 0, complaints
    assert "8 out of memory  6 ok  7 out of memory" in printed
    run = load_run(tmp_path / "out")
    assert [(r.boundary.stop, r.boundary.largest) for r in run.results] == [
        (StopReason.PROVEN, 6),
        (StopReason.PROVEN, 6),
    ]
    failures = {t.failure.evidence for t in run.trials if t.failure is not None}
    assert failures == {"std::bad_alloc"}
    assert findings(tmp_path / "out") == findings(reference)


@pytest.mark.nightly
def test_a_worker_killed_without_evidence_is_no_boundary_and_resuming_repeats_the_trial(
    tmp_path: Path, reference: Path
) -> None:
    code, printed, complaints = finish(start(*RUN, cwd=tmp_path, behaviour="killed"))
    assert (code, "8 failed  -> failed" in printed) == (0, True), complaints
    out = tmp_path / "out"
    run = load_run(out)
    assert [(r.boundary.stop, r.boundary.largest, r.recommendation) for r in run.results] == [
        (StopReason.FAILED, 4, None),
        (StopReason.FAILED, 4, None),
    ]
    assert re.search(r"fp32 / batch +>=4 +-", printed)
    report = (out / "report.md").read_text()
    assert "(killed by SIGKILL; no sign of a lack of memory)" in report
    assert "no largest batch was found (measured)" in report
    assert "largest batch 4" not in report
    (out / "run.json").unlink()
    code, _, complaints = finish(start(*RUN, "--resume", cwd=tmp_path))
    assert code == 0, complaints
    assert findings(out) == findings(reference)


@pytest.mark.nightly
def test_out_of_memory_without_evidence_in_an_old_journal_is_ignored(
    tmp_path: Path, reference: Path
) -> None:
    """Batch 4 was killed; earlier versions recorded it as out of memory."""
    out = tmp_path / "out"
    out.mkdir()
    lines = (reference / NAME).read_text().splitlines()
    killed = json.loads(lines[3])
    assert killed["spec"]["batch_size"] == 4
    killed |= {
        "outcome": "out of memory",
        "measurement": None,
        "failure": {
            "message": "the process died (killed by SIGKILL)",
            "certainty": "probable",
            "evidence": "killed by SIGKILL",
            "phase": "step 1",
            "traceback": None,
        },
    }
    (out / NAME).write_text("\n".join([*lines[:3], json.dumps(killed), ""]))
    code, _, complaints = finish(start(*RUN, "--resume", cwd=tmp_path))
    assert code == 0, complaints
    assert findings(out) == findings(reference)
