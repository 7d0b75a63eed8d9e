"""`bsprobe study` on the CPU of this machine: killed, interrupted and resumed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bsprobe.records.units import Resolution
from bsprobe.study.records import Ending, Study, Training
from bsprobe.study.studyfile import load_study
from bsprobe.training.cityscapes.synthetic import write_sample_data
from tests.support.births import forked_worker_of
from tests.support.commands import bsprobe, rows, start, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")

SMALL = (
    "--data=D",
    "--device=cpu",
    "--model=deeplabv2-mini",
    "--resolution=32x64",
    "--base-lr=0.004",
    "--base-batch=8",
    "--images=32",
    "--validations=4",
    "--seeds=1",
    "--out=out",
)


def without(*options: str) -> list[str]:
    """The words of `SMALL` without some options."""
    return [word for word in SMALL if word.partition("=")[0] not in options]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    size = Resolution(height=64, width=128)
    write_sample_data(tmp_path / "D", count=10, size=size, seed=0, on_written=lambda _: None)
    return tmp_path


def studied(*arguments: str, cwd: Path) -> str:
    done = bsprobe("study", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(study: Study) -> list[Training]:
    """All trainings without times and peak memory, which differ between runs."""
    found = []
    for training in study.trainings:
        assert training.result is not None
        curve = tuple(replace(point, seconds=0.0) for point in training.result.curve)
        result = replace(training.result, curve=curve, peak_bytes=0)
        found.append(replace(training, result=result, started_at="", wall_seconds=0.0))
    return found


def checkpoints(out: Path) -> set[tuple[str, int]]:
    """Names and modification times of the checkpoints in a folder."""
    return {(path.name, path.stat().st_mtime_ns) for path in out.glob("batch-*.checkpoint")}


def wait_for_checkpoint(out: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a new checkpoint is written."""
    before = checkpoints(out)
    wait_until(lambda: bool(checkpoints(out) - before), process)


LONGER = [*without("--images", "--out"), "--batches=2,4", "--images=96"]


@pytest.mark.nightly
def test_a_study_ends_in_a_report(folder: Path) -> None:
    printed = studied(*LONGER, "--out=whole", cwd=folder)
    check_report(printed, folder / "whole")


@pytest.mark.nightly
def test_a_study_that_was_stopped_three_times_has_the_same_results(folder: Path) -> None:
    studied(*LONGER, "--out=whole", cwd=folder)
    killed = start("study", *LONGER, "--out=out", cwd=folder)
    wait_for_checkpoint(folder / "out", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    resumed = start("study", "--resume", "--out=out", cwd=folder)
    wait_for_checkpoint(folder / "out", resumed)
    worker = forked_worker_of(resumed.pid)
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    wait_for_checkpoint(folder / "out", resumed)  # by the new worker
    resumed.send_signal(signal.SIGINT)
    _, complaints = resumed.communicate(timeout=60)
    assert resumed.returncode == 130
    error, hint = complaints.splitlines()[-2:]
    assert error.startswith("error: interrupted")
    assert hint.endswith(": bsprobe study --resume --out out")

    assert "Wrote out/" in studied("--resume", "--out=out", cwd=folder)
    assert figures(load_study(folder / "out")) == figures(load_study(folder / "whole"))
    assert list((folder / "out").glob("*.checkpoint")) == []


def check_report(printed: str, out: Path) -> None:
    """Check the output and the files of a finished study, and that the loss fell."""
    assert "Train deeplabv2-mini at 32x64, fp32 / batch with an effective batch of" in printed
    assert [line for line in printed.splitlines() if len(line) > 80] == []
    assert sorted(path.name for path in out.iterdir()) == [
        "batches.png", "batches.svg", "curves.csv", "curves.png", "curves.svg", "loader.csv",
        "loader.png", "loader.svg", "report.md", "snippet.py", "study-journal.jsonl", "study.json",
        "trainings.csv",
    ]  # fmt: skip
    curves = rows(out / "curves.csv")
    assert [(row["effective_batch"], row["images"]) for row in curves] == [
        (batch, images) for batch in ("2", "4") for images in ("0", "24", "48", "72", "96")
    ]
    first = [float(row["validation_loss"]) for row in curves if row["images"] == "0"]
    last = [float(row["validation_loss"]) for row in curves if row["images"] == "96"]
    assert max(last) < min(first)


@pytest.mark.nightly
def test_a_batch_that_does_not_fit_is_accumulated(folder: Path) -> None:
    options = without("--resolution", "--images")
    studied(
        *options, "--resolution=64x128", "--memory-limit=130MiB", "--batches=32", "--images=32",
        cwd=folder,
    )  # fmt: skip

    *failed, last = load_study(folder / "out").trainings
    assert failed
    assert {training.ended for training in failed} == {Ending.OUT_OF_MEMORY}
    assert last.ended is Ending.FINISHED
    assert last.spec.plan.micro_batch < 32
    assert last.spec.images == 32
    assert "out of memory" in (folder / "out" / "report.md").read_text()


def test_a_loss_that_becomes_nan_is_a_result(folder: Path) -> None:
    steep = ("--norm=frozen", "--base-lr=1e6", "--base-batch=1")
    words = without("--base-lr", "--base-batch")
    printed = studied(*words, "--batches=4", *steep, cwd=folder)

    shown = " ".join(printed.split())
    assert ("diverged" in shown, "update 2 of 8" in shown) == (True, True)
    assert (folder / "out" / "report.md").exists()
    assert not (folder / "out" / "snippet.py").exists()


def test_weights_that_do_not_fit_end_the_study_before_anything_is_trained(folder: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, folder / "w.pth")

    done = bsprobe("study", *SMALL, "--weights=w.pth", cwd=folder)

    assert done.returncode == 2
    error = done.stderr.splitlines()[-2]
    assert error.startswith("error: w.pth does not fit the network")
    assert "conv1.weight" in error


def test_a_folder_without_validation_images_is_refused_by_name(folder: Path) -> None:
    (folder / "D" / "leftImg8bit" / "val").rename(folder / "elsewhere")

    done = bsprobe("study", *SMALL, cwd=folder)

    assert done.returncode == 2
    assert done.stderr.startswith("error: D/leftImg8bit/val: ")


@pytest.mark.nightly
def test_a_study_is_not_resumed_with_other_options(folder: Path) -> None:
    process = start("study", *SMALL, "--batches=2,4", cwd=folder)
    wait_for_checkpoint(folder / "out", process)
    process.terminate()
    process.wait(timeout=60)
    assert process.returncode == 130

    other = bsprobe("study", "--resume", "--out=out", "--batches=2,8", cwd=folder)
    error, hint = other.stderr.splitlines()
    assert (other.returncode, other.stdout) == (2, "")
    assert ("--batches" in error, "study in out" in error) == (True, True)
    assert ("--batches" in hint, "--resume" in hint) == (True, True)
