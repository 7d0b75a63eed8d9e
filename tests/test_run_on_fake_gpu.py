"""`bsprobe run` and the recorder end to end on the fake GPU, with injected faults."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.truth_records import load_all, load_trial, raw_path
from bsprobe.records.errors import FileError
from bsprobe.records.failures import Outcome
from tests.support import on_fake_gpu
from tests.support.commands import ROOT, run
from tests.support.fake_cuda import needs_fake_cuda
from tests.support.torchrun import Started

pytestmark = needs_fake_cuda
SMALL = (
    *("-m", "bsprobe", "run", "--model=deeplabv2-mini", "--resolution=128x256"),
    *("--precision=amp-fp16", "--norm=batch", "--max-batch=2"),
)
RECORD = ROOT / "benchmarks" / "record_truth.py"
SCRIPT = ROOT / "benchmarks" / "first_gpu.sh"


def run_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "run.json").read_text())


@pytest.mark.nightly
def test_a_gpu_that_breaks_and_a_few_mib_of_others_do_not_keep_a_run_from_going_on(
    tmp_path: Path,
) -> None:
    broken = on_fake_gpu.python(*SMALL, "--out=out", folder=tmp_path, faults="sticky@2")
    assert broken.returncode == 0, broken.stderr
    assert "an illegal memory access" in (tmp_path / "out" / "report.md").read_text()
    before = run_of(tmp_path)["trials"]
    assert [trial["outcome"] for trial in before] == ["fits", "failed"]
    (tmp_path / "out" / "run.json").unlink()
    again = on_fake_gpu.python(
        *("-m", "bsprobe", "run", "--resume", "--out=out"),
        folder=tmp_path,
        FAKE_GPU_OTHERS_MIB="9",
    )
    assert again.returncode == 0, again.stderr
    assert run_of(tmp_path)["trials"][0] == before[0]


def recorded(folder: Path, *, tier: int, faults: str = "") -> "subprocess.CompletedProcess[str]":
    options = ("--rehearse", f"--tier={tier}", "--minutes=5", "--out=truth")
    return on_fake_gpu.python(
        *(RECORD, *options, "--archive=truth.tar"), folder=folder, faults=faults
    )


@pytest.mark.nightly
def test_a_recording_survives_whatever_happens_to_its_trials(tmp_path: Path) -> None:
    faults = "oom@2,unknown-event@3,sticky@4,segv@6,leak@8"
    done = recorded(tmp_path, tier=3, faults=faults)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "truth").iterdir()
    trials = sorted(
        (load_trial(path) for path in folder.glob("trials/*.json.gz")),
        key=lambda trial: trial.started_at,
    )
    outcomes = [(each.outcome, each.history_failure.partition(":")[0]) for each in trials]
    assert outcomes[:8] == [
        (Outcome.FITS, ""),
        (Outcome.OUT_OF_MEMORY, ""),
        (Outcome.FITS, "UnknownEventError"),
        (Outcome.FAILED, "the recorder did not stop"),
        (Outcome.FITS, ""),
        (Outcome.FAILED, ""),
        (Outcome.FITS, ""),
        (Outcome.FITS, ""),
    ]
    assert all(outcome == (Outcome.FITS, "") for outcome in outcomes[8:])
    assert len(outcomes) == 28
    pids = [line.split()[0] for line in (tmp_path / "trials.log").read_text().splitlines()]
    assert [len({*pids[:start]}) for start in (4, 6, 8, 9)] == [1, 2, 3, 4]
    assert raw_path(folder, trials[2].name).exists()
    with tarfile.open(tmp_path / "truth-1.tar") as tar:
        assert len(tar.getnames()) == len(trials) + 2  # the machine's, and the raw recording
    with pytest.raises(FileError, match="fake"):
        list(load_all(tmp_path / "truth"))
    # A second session repeats only the failed trials.
    done = recorded(tmp_path, tier=3)
    assert done.stdout.splitlines()[-1].endswith(": 0 trials and 0 boundaries are left to record.")
    again = [load_trial(path) for path in folder.glob("trials/*.json.gz")]
    assert {each.name for each in again if each not in trials} == {
        trials[number].name for number in (2, 3, 5)
    }
    assert all(each.is_complete for each in again)


@pytest.mark.nightly
def test_one_bug_in_every_trial_leaves_the_time_to_what_comes_next(tmp_path: Path) -> None:
    started = time.monotonic()
    done = recorded(tmp_path, tier=1, faults="bug@1-99")
    assert done.returncode == 0, done.stderr
    assert "Stopped: 3 trials in a row" in done.stdout
    assert time.monotonic() - started < 50
    assert len((tmp_path / "trials.log").read_text().splitlines()) <= 6  # both halves of the tier


def rehearsing(folder: Path) -> dict[str, str]:
    """Return the variables of the script, with small networks."""
    return on_fake_gpu.environment(
        folder,
        OUT=str(folder / "out"),
        W=str(folder / "work"),
        PY=sys.executable,
        REHEARSE="1",
    )


@pytest.mark.nightly
def test_the_script_for_a_first_gpu_keeps_its_time_and_packs_what_it_finds(tmp_path: Path) -> None:
    limit = 200
    started = time.monotonic()
    variables = rehearsing(tmp_path)
    done = run("bash", SCRIPT, "A", limit, cwd=tmp_path, text="", timeout=300, **variables)
    assert time.monotonic() - started <= limit
    assert done.returncode == 0, done.stdout[-3000:]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("log-A.txt", "outside.jsonl", "run.tgz", "truth-1.tar")
    }
    stages = [json.loads(line) for line in (out / "outside.jsonl").read_text().splitlines()]
    assert [each["stage"] for each in stages if each["stage"].startswith("FAILED")] == []
    assert len(stages) == 11
    assert (stages[-1]["budget"] or 0) + stages[-1]["outside_trial"] == 12 * 1024
    with tarfile.open(out / "run.tgz") as tar:
        assert "run/run.json" in tar.getnames()
    with tarfile.open(out / "truth-1.tar") as tar:
        assert sum("/trials/" in name for name in tar.getnames()) > 10


def test_the_script_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    for arguments in ((), ("C", "10"), ("A", "soon")):
        variables = on_fake_gpu.environment(tmp_path, OUT=str(tmp_path))
        done = run("bash", SCRIPT, *arguments, cwd=tmp_path, text="", timeout=60, **variables)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: ")


@pytest.mark.nightly
def test_a_script_that_is_stopped_has_kept_what_it_had_by_then(tmp_path: Path) -> None:
    script = Started(("bash", str(SCRIPT), "A", "300"), tmp_path, **rehearsing(tmp_path))
    archive = tmp_path / "out" / "truth-1.tar"  # rewritten after every configuration
    deadline = time.monotonic() + 200
    while not archive.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    script.process.kill()
    script.process.wait()
    for pid in script.alive():  # its children would run for minutes
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    script.finish()
    with tarfile.open(archive) as tar:
        assert sum("/trials/" in name for name in tar.getnames()) >= 1
    assert len((tmp_path / "out" / "outside.jsonl").read_text().splitlines()) == 11
