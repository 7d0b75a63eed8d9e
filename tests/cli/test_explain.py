"""`bsprobe explain` from the command line."""

import subprocess
from pathlib import Path

import pytest
import torch

from bsprobe.storage.explanationfile import load_explanation
from tests.support import commands


def bsprobe(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return commands.bsprobe(*arguments, cwd=cwd, XDG_CACHE_HOME=str(cwd / "cache"))


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ("--gpu 4O90", ("--gpu", "'4O90'")),
        ("--norm batch,group --out x", ("--out", "2")),
        ("--capacity 20GiB", ("--capacity", "--compute-capability")),
        ("--batch 0", ("'--batch'",)),
        ("--model deeplabv3", ("--model", "'deeplabv3'")),
        ("--device cpu", ("--device cpu", "GPU")),
        ("--device tpu", ("--device", "'tpu'")),
        ("--device cuda --gpu A100", ("--gpu", "--device")),
        pytest.param(
            "--memory-limit 1MiB", ("1 MiB", "CUDA context"), marks=pytest.mark.nightly
        ),  # starts a worker
    ],
)
def test_wrong_input_gets_a_line_and_leaves_nothing(
    arguments: str, facts: tuple[str, ...], tmp_path: Path
) -> None:
    done = bsprobe("explain", *arguments.split(), cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert (error[:7], hint[:6]) == ("error: ", "hint: ")
    assert [fact for fact in facts if fact not in error] == []
    assert not (tmp_path / "reports").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_an_error(tmp_path: Path) -> None:
    done = bsprobe("explain", "--device", "cuda", cwd=tmp_path)
    assert (done.returncode, "no GPU" in done.stderr) == (2, True)
    assert not (tmp_path / "reports").exists()


@pytest.mark.nightly
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
