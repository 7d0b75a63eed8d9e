"""`bsprobe study` as its users run it: on this machine's CPU, killed, interrupted, resumed."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bsprobe.records.units import Resolution
from bsprobe.study.records import Ending, Study, Training
from bsprobe.study.studyfile import load_study
from bsprobe.training.cityscapes.synthetic import write_sample_data
from tests.support.commands import python_path

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    size = Resolution(height=64, width=128)
    write_sample_data(tmp_path / "D", count=10, size=size, seed=0, on_written=lambda _: None)
    return tmp_path


def start(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bsprobe", "study", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def studied(*arguments: str, cwd: Path) -> str:
    process = start(*arguments, cwd=cwd)
    printed, complaints = process.communicate(timeout=600)
    assert process.returncode == 0, complaints
    return printed


def complaint(*arguments: str, cwd: Path) -> tuple[int, str]:
    process = start(*arguments, cwd=cwd)
    _, complaints = process.communicate(timeout=120)
    return process.returncode, complaints


def figures(study: Study) -> list[Training]:
    """All trainings without what differs between two runs: times, and memory by some pages."""
    return [_figures(training) for training in study.trainings]


def _figures(training: Training) -> Training:
    result = training.result
    assert result is not None
    curve = tuple(replace(point, seconds=0.0) for point in result.curve)
    return replace(
        training,
        result=replace(result, curve=curve, peak_bytes=0),
        started_at="",
        wall_seconds=0.0,
    )


@pytest.mark.slow
def test_a_study_ends_in_a_report_whose_curves_fall(folder: Path) -> None:
    printed = studied(*SMALL, "--batches=2,4", cwd=folder)

    out = folder / "out"
    assert "Train deeplabv2-mini at 32x64, fp32 / batch with an effective batch of" in printed
    assert [line for line in printed.splitlines() if len(line) > 80] == []
    assert sorted(path.name for path in out.iterdir()) == [
        "batches.png", "batches.svg", "curves.csv", "curves.png", "curves.svg", "loader.csv",
        "loader.png", "loader.svg", "report.md", "snippet.py", "study-journal.jsonl", "study.json",
        "trainings.csv",
    ]  # fmt: skip
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["effective_batch"], row["images"]) for row in rows] == [
        (batch, images) for batch in ("2", "4") for images in ("0", "8", "16", "24", "32")
    ]
    first = [float(row["validation_loss"]) for row in rows if row["images"] == "0"]
    last = [float(row["validation_loss"]) for row in rows if row["images"] == "32"]
    assert max(last) < min(first)


def checkpoints(out: Path) -> set[tuple[str, int]]:
    """The checkpoints in a folder and when each was written."""
    return {(path.name, path.stat().st_mtime_ns) for path in out.glob("batch-*.checkpoint")}


def wait_for_checkpoint(out: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a checkpoint is written that is not there yet."""
    before = checkpoints(out)
    deadline = time.monotonic() + 120
    while not checkpoints(out) - before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_study_that_was_killed_and_one_that_was_interrupted_go_on_to_the_same_figures(
    folder: Path,
) -> None:
    longer = [*SMALL[:-1], "--batches=2,4", "--images=384"]
    killed = start(*longer, "--out=out", cwd=folder)
    wait_for_checkpoint(folder / "out", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    resumed = start("--resume", "--out=out", cwd=folder)
    wait_for_checkpoint(folder / "out", resumed)
    resumed.send_signal(signal.SIGINT)
    _, complaints = resumed.communicate(timeout=60)
    assert resumed.returncode == 130
    assert complaints.splitlines()[-2:] == [
        "error: interrupted; finished trainings and the last checkpoint are kept",
        "hint: go on with: bsprobe study --resume --out out",
    ]

    assert "Wrote out/" in studied("--resume", "--out=out", cwd=folder)
    studied(*longer, "--out=whole", cwd=folder)
    assert figures(load_study(folder / "out")) == figures(load_study(folder / "whole"))
    assert list((folder / "out").glob("*.checkpoint")) == []


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_accumulated_and_says_so(folder: Path) -> None:
    options = [option for option in SMALL if not option.startswith("--resolution")]
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
    printed = studied(*SMALL, "--batches=4", "--base-lr=1e30", cwd=folder)

    assert "diverged: the loss of update 2 of 8 was not finite" in " ".join(printed.split())
    assert (folder / "out" / "report.md").exists()
    assert not (folder / "out" / "snippet.py").exists()


WRONG = {
    "no data": (
        ["--device=cpu"],
        (
            "error: --data is missing: a study needs images to learn from\n"
            "hint: draw some with `bsprobe sample-data DIR`, then add --data DIR\n"
        ),
    ),
    "no batches": (
        ["--batches=,"],
        "error: --batches names nothing\nhint: for example 2,4,8\n",
    ),
    "a batch of nothing": (
        ["--batches=2,0"],
        (
            "error: --batches: '0' is no batch size\n"
            "hint: give whole numbers from 1 on, for example 2,4,8\n"
        ),
    ),
    "a batch that is no number": (
        ["--batches=2,x"],
        (
            "error: --batches: 'x' is no batch size\n"
            "hint: give whole numbers from 1 on, for example 2,4,8\n"
        ),
    ),
    "resuming nothing named": (
        ["--resume"],
        "error: --resume does not say which study\nhint: add --out FOLDER\n",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_typed_wrong_gets_one_clear_line_and_a_hint(tmp_path: Path, case: str) -> None:
    arguments, words = WRONG[case]

    assert complaint(*arguments, cwd=tmp_path) == (2, words)


def test_weights_that_do_not_fit_end_the_study_before_anything_is_trained(folder: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, folder / "w.pth")

    code, complaints = complaint(*SMALL, "--weights=w.pth", cwd=folder)

    assert code == 2
    assert "error: w.pth does not fit the network: " in complaints
    assert "of the network's have no value (conv1.weight, " in complaints


def test_a_folder_without_validation_images_is_refused_by_name(folder: Path) -> None:
    (folder / "D" / "leftImg8bit" / "val").rename(folder / "elsewhere")

    code, complaints = complaint(*SMALL, cwd=folder)

    assert code == 2
    assert complaints.startswith("error: D/leftImg8bit/val: there is no such folder\n")


def test_a_resumed_study_refuses_to_become_another_one(folder: Path) -> None:
    process = start(*SMALL, "--batches=2,4", cwd=folder)
    wait_for_checkpoint(folder / "out", process)
    process.terminate()
    process.wait(timeout=60)
    assert process.returncode == 130

    assert complaint("--resume", "--out=out", "--batches=2,8", cwd=folder) == (
        2,
        (
            "error: --batches differs from the study in out\n"
            "hint: leave it out to go on with that study, or start a new one without --resume\n"
        ),
    )
