"""`bsprobe run --search guided`, on a GPU that is a simulated one in disguise, and refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, python_path
from disguised_gpu import NAME

PROGRAM = str(ROOT / "tests" / "disguised_gpu.py")
SMALL = (
    "run",
    "--search=guided",
    "--model=deeplabv2-mini",
    "--resolution=256x512",
    "--memory-limit=2GiB",
    "--precision=fp32",
    "--norm=batch",
)
ADDED_BYTES = 100 * 2**20
"""What the context of the disguised GPU takes above what is predicted: an image and a bit."""


def bsprobe(
    *arguments: str, cwd: Path, program: tuple[str, ...] = ("-m", "bsprobe")
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": python_path(), "ADDED_BYTES": str(ADDED_BYTES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def on_gpu(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return bsprobe(*arguments, cwd=cwd, program=(PROGRAM,))


def searched(run: dict[str, Any]) -> list[tuple[int, str]]:
    trials = (t for t in run["trials"] if t["purpose"] != "recommended")
    return [(trial["spec"]["batch_size"], trial["outcome"]) for trial in trials]


@pytest.mark.slow
def test_a_guided_run_proves_the_boundary_in_four_trials_and_shows_both(tmp_path: Path) -> None:
    done = on_gpu(*SMALL, "--out=out", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    (result,) = run["results"]
    assert (run["device"]["name"], run["device"]["source"]) == (NAME, "measured")
    largest, predicted = result["boundary"]["largest"], result["prediction"]["largest"]
    assert result["boundary"]["stop"] == "proven"
    assert largest < predicted
    assert len(searched(run)) <= 4

    beside = f"Predicted largest {predicted}, measured {largest};"
    assert f"  Predicted largest {predicted}\n" in done.stderr
    assert beside in done.stdout.replace("\n      ", " ")
    assert beside in (tmp_path / "out" / "report.md").read_text()
    with (tmp_path / "out" / "recommendation.csv").open() as table:
        (row,) = csv.DictReader(table)
    assert (row["largest"], row["predicted_largest"]) == (str(largest), str(predicted))
    with (tmp_path / "out" / "trials.csv").open() as table:
        first = next(csv.DictReader(table))
    assert int(first["peak_bytes"]) == int(first["predicted_peak_bytes"]) + ADDED_BYTES

    # Interrupted after two trials, it goes on to the same end.
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    (tmp_path / "out" / "run.json").unlink()
    done = on_gpu("run", "--resume", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "out" / "run.json").read_text())
    assert searched(again) == searched(run)
    assert again["trials"][:2] == run["trials"][:2]
    assert again["results"][0]["boundary"] == result["boundary"]


OF_A_CPU = (
    "error: --search guided needs a prediction, and nothing predicts the memory of a CPU\n"
    "hint: leave it out, or probe a GPU: --device cuda\n"
)
WITHOUT_GPU = (
    "error: --search guided measures on a GPU; without one, all of it is predicted anyway\n"
    "hint: leave it out\n"
)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--device=cpu"], OF_A_CPU),
        (["--device=cpu", "--dry-run"], OF_A_CPU),
        (["--gpu=RTX 3090"], WITHOUT_GPU),
    ],
)
def test_what_cannot_be_guided_is_refused(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    done = bsprobe("run", "--search=guided", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_it_is_refused_once_that_is_known(tmp_path: Path) -> None:
    done = bsprobe("run", "--search=guided", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", WITHOUT_GPU)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_guided_run_says_so(tmp_path: Path) -> None:
    done = bsprobe("run", "--search=guided", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "For each: half the predicted batch, then what it points to; then the exact" in (
        done.stdout
    )
