"""`bsprobe` with user-supplied parts of a training, measured and predicted."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bsprobe.records.batch_forms import BatchForm, Call, TargetsAre
from bsprobe.records.variants import Norm, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.storage.runfile import load_run
from tests.support import commands
from tests.support.commands import ROOT

PARTS = [
    "--model=parts.py:network", "--model-arg=width=16", "--batch-from=parts.py:batch",
    "--loss=parts.py:loss", "--optimizer-from=parts.py:adam", "--precision=fp32",
]  # fmt: skip
OWN = OwnParts(
    model_args=(("width", "16"),),
    loss="parts.py:loss",
    optimizer="parts.py:adam",
    batches="parts.py:batch",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "tests" / "support" / "own_training.py", tmp_path / "parts.py")
    return tmp_path


def bsprobe(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return commands.bsprobe(*arguments, cwd=cwd, OMP_NUM_THREADS="1")


def test_a_prediction_records_the_parts_and_is_resumed_with_them(folder: Path) -> None:
    command = ["run", "--gpu=RTX 3090", *PARTS, "--norm=batch,group", "--max-batch=4"]
    done = bsprobe(*command, "--out=out", cwd=folder)

    assert done.returncode == 0, done.stderr
    run = load_run(folder / "out")
    assert run.settings.variants == tuple(
        Variant(model="parts.py:network", resolution=None, norm=norm, own=OWN)
        for norm in (Norm.AS_BUILT, Norm.GROUP)
    )
    words = " ".join(done.stdout.split())
    assert (
        "parts.py:network(width=16) · batches of parts.py:batch · loss parts.py:loss · "
        "parts.py:adam"
    ) in words
    assert "BatchNorm normalises over the micro-batch" in words
    group = {result.variant.norm: result for result in run.results}[Norm.GROUP].recommendation
    assert group is not None
    assert any("do not fit group norm" in text for text in group.caveats)
    recorded = {t.measurement.model.batch_form for t in run.trials if t.measurement is not None}
    assert recorded == {BatchForm(call=Call.ONE, targets=TargetsAre.VALUES)}
    snippet = (folder / "out" / "snippet.py").read_text()
    assert "def train(model, optimizer, loss, batches, updates" in snippet

    (folder / "out" / "run.json").unlink()
    other = bsprobe("run", "--resume", "--out=out", "--model-arg=width=8", cwd=folder)
    assert (other.returncode, other.stderr.splitlines()[0]) == (
        2,
        "error: --model-arg differs from the run in out",
    )
    same = bsprobe("run", "--resume", "--out=out", "--loss=parts.py:loss", cwd=folder)
    assert (same.returncode, load_run(folder / "out").trials) == (0, run.trials), same.stderr


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")
def test_a_measured_run_of_own_parts_ends_in_a_proven_boundary(folder: Path) -> None:
    done = bsprobe(
        "run", "--device=cpu", "--memory-limit=64MiB", "--model=parts.py:Named",
        "--batch-from=parts.py:named_batch", "--loss=parts.py:named_loss", "--precision=fp32",
        "--norm=batch", "--out=out", cwd=folder,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert re.search(r"-> largest \d+", " ".join(done.stdout.split()))


@pytest.mark.nightly
def test_a_step_is_explained_with_own_parts(folder: Path) -> None:
    explained = bsprobe(
        "explain", "--gpu=RTX 3090", *PARTS, "--max-batch=4", "--out=explained", cwd=folder
    )

    assert explained.returncode == 0, explained.stderr
    text = (folder / "explained" / "explain.md").read_text()
    assert "parts.py:network(width=16)" in text
    # A user-supplied optimizer or loss is not replaced by a built-in one.
    assert "adamw" not in text
    assert "loss at logits" not in text


@pytest.mark.parametrize(
    "device", ["--gpu=RTX 3090", pytest.param("--device=cpu", marks=pytest.mark.nightly)]
)
def test_an_optimizer_with_a_closure_ends_the_run_with_one_line(folder: Path, device: str) -> None:
    parts = [each for each in PARTS if "optimizer" not in each]
    done = bsprobe(
        "run", device, *parts, "--optimizer-from=parts.py:lbfgs", "--norm=batch", cwd=folder
    )

    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: --optimizer-from parts.py:lbfgs: ")
    assert ("LBFGS.step()" in error, "closure" in error) == (True, True)
    assert hint.startswith("hint: ")


GROWING = """
import torch
from torch import nn

kept = []


def loss(outputs, targets):
    kept.append(outputs)
    return nn.functional.cross_entropy(outputs, targets)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, images):
        return self.layer(images)


class Keeps(Net):
    def forward(self, images):
        outputs = super().forward(images)
        kept.append(outputs.detach())
        return outputs


def drawn(size):
    side = (64, 96, 128)[int(torch.randint(3, ()))]
    return torch.randn(size, 3, side, side), torch.randint(0, 5, (size, side, side))
"""
OWN_LOSS = ["--model=own.py:Net", "--loss=own.py:loss"]
DEVICES = (["--gpu=RTX 3060 12GB"], ["--device=cpu", "--memory-limit=512MiB"])


@pytest.mark.nightly
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [OWN_LOSS, ["--model=own.py:Keeps"]])
def test_a_list_that_keeps_outputs_leaves_no_batch_safe(
    device: list[str], parts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(GROWING)
    sizes = ["--resolution=256x256", "--max-batch=16", "--precision=fp32", "--out=out"]
    done = bsprobe("run", *device, *parts, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = load_run(tmp_path / "out").results
    growth = result.growth[-1]
    outputs = growth.batch * 5 * 256 * 256 * 4
    assert growth.bytes_per_step == pytest.approx(outputs, rel=0.01)
    assert (growth.steps, result.recommendation) == (24, None)
    assert not (tmp_path / "out" / "snippet.py").exists()
    assert "No batch is safe" in " ".join(done.stdout.split())


@pytest.mark.nightly
@pytest.mark.parametrize("device", DEVICES)
def test_the_largest_of_the_drawn_sizes_is_probed(device: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(GROWING)
    parts = ["--model=own.py:Net", "--batch-from=own.py:drawn", "--loss=pixel-cross-entropy"]
    sizes = ["--max-batch=2", "--precision=fp32", "--out=out"]
    done = bsprobe("run", *device, *parts, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = "largest of 8 drawn: 128x128; sizes 64x64 to 128x128"
    assert said in " ".join(done.stdout.split())
    assert said in (tmp_path / "out" / "report.md").read_text()
    own = load_run(tmp_path / "out").settings.variants[0].own
    assert own.drawn is not None
    assert (own.drawn.count, own.drawn.sizes) == (8, ("64x64", "96x96", "128x128"))
