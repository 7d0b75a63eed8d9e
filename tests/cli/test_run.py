"""`bsprobe run` on the CPU of this machine: killed, interrupted and resumed."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.commands import (
    assert_no_trial_was_repeated,
    bsprobe,
    rows,
    start,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")

SMALL = [
    "--device=cpu",
    "--memory-limit=80MiB",
    "--model=deeplabv2-mini",
    "--resolution=64x128",
    "--precision=fp32",
    "--norm=batch",
    "--target-batch=6",
]


def journal_lines(folder: Path) -> list[str]:
    path = folder / "journal.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(folder: Path, count: int, process: "subprocess.Popen[str]") -> None:
    wait_until(lambda: len(journal_lines(folder)) >= count, process)


def workers(folder: Path) -> set[int]:
    """Process ids of the workers started from a folder; other tests have workers too."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_spawned = b"bsprobe.worker.child" in (process / "cmdline").read_bytes()
            is_forked = (process / "comm").read_text().strip() == "bsprobe-worker"
            if (is_spawned or is_forked) and (process / "cwd").readlink() == folder.resolve():
                found.add(int(process.name))
    return found


@pytest.mark.nightly
def test_a_killed_run_goes_on_and_ends_in_a_proven_boundary(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = start("run", *SMALL, "--out=out", cwd=tmp_path)
    for lines in (2, 3):  # first the worker only; its trial is repeated
        wait_for_lines(out, lines, killed)
        for worker in workers(tmp_path):
            os.kill(worker, signal.SIGKILL)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = journal_lines(out)
    # An incomplete last line, as after a crash of the machine.
    (out / "journal.jsonl").write_text("\n".join(finished) + '\n{"spec": {"variant"')

    done = bsprobe("run", "--resume", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert journal_lines(out)[: len(finished)] == finished

    assert_no_trial_was_repeated(out)
    (row,) = rows(out / "recommendation.csv")
    largest = int(row["largest"])
    fresh = {
        int(t["batch_size"]): t["outcome"]
        for t in rows(out / "trials.csv")
        if t["fresh_process"] == "True" and t["accumulation_steps"] == "1"
    }
    assert (fresh[largest], fresh[largest + 1]) == ("fits", "out of memory")
    assert (row["norm"], row["boundary"], int(row["first_failure"])) == (
        "batch",
        "proven",
        largest + 1,
    )
    # The recommendation itself was run.
    assert (row["recommended_outcome"], int(row["effective_batch"])) == ("fits", 6)
    assert f"largest {largest}" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "journal.jsonl", "memory.png", "memory.svg", "recommendation.csv", "report.md", "run.json",
        "snippet.py", "throughput.png", "throughput.svg", "trials.csv",
    ]  # fmt: skip
    assert workers(tmp_path) == set()


def test_ctrl_c_leaves_no_process_and_the_hint_has_the_command_to_resume(tmp_path: Path) -> None:
    process = start("run", *SMALL, "--out=out", cwd=tmp_path)
    wait_for_lines(tmp_path / "out", 2, process)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    error, hint = complaints.splitlines()[-2:]
    assert error.startswith("error: interrupted")
    assert hint.endswith(": bsprobe run --resume --out out")
    assert workers(tmp_path) == set()


@pytest.mark.nightly
def test_a_run_is_not_resumed_with_other_options(tmp_path: Path) -> None:
    process = start("run", *SMALL, "--out=out", cwd=tmp_path)
    wait_for_lines(tmp_path / "out", 1, process)
    second = start("run", *SMALL, "--out=out", "--resume", cwd=tmp_path)
    _, complaints = second.communicate(timeout=60)
    assert second.returncode == 2
    assert complaints.startswith("error: another bsprobe command is writing")
    process.terminate()
    process.wait(timeout=60)
    assert process.returncode == 130

    other = bsprobe("run", "--resume", "--out=out", "--norm=group", cwd=tmp_path)
    error, hint = other.stderr.splitlines()
    assert (other.returncode, other.stdout) == (2, "")
    assert ("--norm" in error, "run in out" in error) == (True, True)
    assert ("--norm" in hint, "--resume" in hint) == (True, True)


def test_batch_1_that_does_not_fit_is_a_result_with_advice(tmp_path: Path) -> None:
    # The first feature map alone exceeds the limit. With many small ones, oneDNN may fail to
    # allocate for a kernel, which counts as out of memory only if a smaller batch runs.
    done = bsprobe(
        *("run", "--device=cpu", "--memory-limit=130MiB", "--model=deeplabv2-mini"),
        *("--resolution=1024x2048", "--precision=fp32", "--norm=batch", "--out=out"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "fp32 / batch:  1 out of memory  -> nothing fits" in done.stdout
    assert "--checkpointing on" in done.stdout
    assert "--precision amp-fp16" in done.stdout
    assert not (tmp_path / "out" / "snippet.py").exists()


@pytest.mark.nightly
def test_drawn_data_is_checked_and_trained_on(tmp_path: Path) -> None:
    bsprobe("sample-data", "D", "--images", "10", "--size", "64x128", cwd=tmp_path)
    assert "No problems." in bsprobe("data", "D", cwd=tmp_path).stdout
    options = ("--data", "D", "--subset", "6", "--max-batch=2", *SMALL, "--out=out")
    done = bsprobe("run", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data loader" in done.stdout
    assert "Peak memory with real" in done.stdout
    trials = rows(tmp_path / "out" / "trials.csv")
    real, synthetic = (
        [
            int(t["peak_bytes"])
            for t in trials
            if t["outcome"] == "fits" and (t["purpose"] == "comparison") is comparison
        ]
        for comparison in (False, True)
    )
    # Equal trials on the CPU differ by up to 6 MiB (benchmarks/repeatability.py).
    assert synthetic[0] == pytest.approx(real[-1], abs=6 * 2**20)


@pytest.mark.nightly
def test_the_boundary_is_the_same_in_three_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one thread batch 6 takes 460 MiB and batch 7 takes 495: the limit is half-way between, so
    # that noise does not decide.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [
        "--device=cpu", "--memory-limit=480MiB", "--model=deeplabv2-resnet50",
        "--resolution=64x128", "--precision=fp32", "--norm=batch",
    ]  # fmt: skip
    found = []
    for number in range(3):
        done = bsprobe("run", *command, f"--out={number}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        table = rows(tmp_path / str(number) / "recommendation.csv")
        found.append([(row["norm"], row["largest"], row["boundary"]) for row in table])
    assert found[0] == found[1] == found[2]
    assert [boundary for *_, boundary in found[0]] == ["proven"]
