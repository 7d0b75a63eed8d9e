"""`bsprobe explain` as its users run it."""

import subprocess
from pathlib import Path

import pytest
import torch

from bsprobe.storage.explanationfile import load_explanation
from tests.support import commands


def bsprobe(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return commands.bsprobe(*arguments, cwd=cwd, XDG_CACHE_HOME=str(cwd / "cache"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--gpu 4O90", "error: --gpu: '4O90' is unknown"),
        ("--norm batch,group --out x", "error: --out is one folder, these are 2 variants"),
        ("--capacity 20GiB", "error: --capacity and --compute-capability describe a card"),
        ("--batch 0", "error: Invalid value for '--batch'"),
        ("--model deeplabv3", "error: --model: 'deeplabv3' is unknown"),
        ("--device cpu", "error: --device cpu: only a GPU's allocator records"),
        ("--device tpu", "error: --device: 'tpu' is unknown"),
        ("--device cuda --gpu A100", "error: --gpu predicts and --device runs"),
        ("--memory-limit 1MiB", "error: a memory limit of 1 MiB is used up by the CUDA context"),
    ],
)
def test_wrong_input_gets_a_line_and_leaves_nothing(
    arguments: str, complaint: str, tmp_path: Path
) -> None:
    done = bsprobe("explain", *arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "reports").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_missed(tmp_path: Path) -> None:
    done = bsprobe("explain", "--device", "cuda", cwd=tmp_path)
    assert (done.returncode, "there is no GPU in this machine" in done.stderr) == (2, True)
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
def test_a_small_network_is_explained_from_end_to_end(tmp_path: Path) -> None:
    done = bsprobe(
        "explain", "--model=deeplabv2-mini", "--resolution=512x1024", "--memory-limit=1500MiB",
        "--precision=amp-fp16", "--depth=1", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Wrote ")]
    assert [line for line in lines if len(line) > 80] == []
    assert "no GPU was named" in " ".join(done.stdout.split())
    (folder,) = (tmp_path / "reports").iterdir()
    assert folder.name == "explain-rtx-3090-1.46gib-deeplabv2-mini-512x1024-amp-fp16-batch"
    assert {path.name for path in folder.iterdir()} == {
        *("explain.md", "explanation.json", "memory.csv", "remedies.csv", "snapshot.pickle"),
        *("step-by-kind.png", "step-by-kind.svg", "step-by-module.png", "step-by-module.svg"),
        "timeline.csv",
    }
    report = load_explanation(folder)
    assert report.explanation.spec.batch_size == report.boundary.largest
    assert report.explanation.peak_bytes <= 1500 * 2**20
    held = commands.rows(folder / "memory.csv")
    assert sum(int(row["size_bytes"]) for row in held) == report.explanation.peak_bytes
