"""`bsprobe run --search guided` on the fake GPU, and its errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.units import GIB, MIB
from tests.fake_gpu.fake_card import LATE_BYTES, NAME
from tests.support import on_fake_gpu
from tests.support.commands import bsprobe, rows
from tests.support.fake_cuda import needs_fake_cuda

SMALL = (
    "--search=guided",
    "--model=deeplabv2-mini",
    "--resolution=256x512",
    "--memory-limit=2GiB",
    "--precision=fp32",
    "--norm=batch",
)
ADDED_MIB = 100
"""MiB that the context of the fake GPU takes beyond the prediction: a little over one image."""


def on_gpu(*arguments: str, cwd: Path) -> Any:
    return on_fake_gpu.python(
        *("-m", "bsprobe", "run", *arguments), folder=cwd, FAKE_GPU_ADDED_MIB=str(ADDED_MIB)
    )


def searched(run: dict[str, Any]) -> list[tuple[int, str]]:
    trials = (t for t in run["trials"] if t["purpose"] in ("search", "proof"))
    return [(trial["spec"]["batch_size"], trial["outcome"]) for trial in trials]


@needs_fake_cuda
@pytest.mark.nightly
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

    assert f"  Predicted largest {predicted}\n" in done.stderr
    assert f"Predicted largest batch: {predicted} (measured {largest};" in done.stdout
    assert "## Predicted and measured" in (tmp_path / "out" / "report.md").read_text()
    (row,) = rows(tmp_path / "out" / "recommendation.csv")
    assert (row["largest"], row["predicted_largest"]) == (str(largest), str(predicted))
    trials = rows(tmp_path / "out" / "trials.csv")
    more = ADDED_MIB * MIB + LATE_BYTES
    assert int(trials[0]["peak_bytes"]) == int(trials[0]["predicted_peak_bytes"]) + more
    # Memory outside the allocator, late kernels included, is subtracted from the limit.
    assert len({row["budget_bytes"] for row in trials}) == 1
    (outside,) = {row["outside_allocator_bytes"] for row in trials} - {""}
    assert int(trials[0]["budget_bytes"]) + int(outside) == 2 * GIB
    assert all(int(row["peak_bytes"] or 0) <= 2 * GIB for row in trials)
    assert "| allocator's budget |" in (tmp_path / "out" / "report.md").read_text()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"step-by-kind.png", "memory.png", "throughput.png", "snippet.py"} <= names


@needs_fake_cuda
@pytest.mark.nightly
def test_a_guided_run_resumed_after_two_trials_has_the_same_result(tmp_path: Path) -> None:
    assert on_gpu(*SMALL, "--out=out", cwd=tmp_path).returncode == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    (tmp_path / "out" / "run.json").unlink()
    done = on_gpu("--resume", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "out" / "run.json").read_text())
    assert searched(again) == searched(run)
    assert again["trials"][:2] == run["trials"][:2]
    assert again["results"][0]["boundary"] == run["results"][0]["boundary"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_a_guided_search_is_refused(tmp_path: Path) -> None:
    done = bsprobe("run", "--search=guided", cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert done.stderr.startswith("error: --search guided")


@needs_fake_cuda
@pytest.mark.nightly
def test_the_plan_of_a_guided_run_names_the_prediction(tmp_path: Path) -> None:
    done = on_gpu(*SMALL, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "predicted batch" in " ".join(done.stdout.split())
