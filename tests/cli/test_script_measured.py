"""Boundaries of training scripts on the CPU, with PyTorch and under a memory limit."""

import sys
from pathlib import Path

import pytest

from bsprobe.records.runs import Run, StopReason
from bsprobe.records.scripts import MemoryLimit, View
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT, bsprobe
from tests.support.training_scripts import SIDES

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="commands are probed on Linux"),
]
SCRIPTS = str(ROOT / "tests" / "support" / "training_scripts.py")
CPU = ("run", "--device=cpu", "--memory-limit=300MiB", "--out=out")


def run_of(*words: str, cwd: Path) -> Run:
    done = bsprobe(*CPU, *words, cwd=cwd, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return load_run(cwd / "out")


def largest(run: Run) -> int:
    """The largest batch, with its proof."""
    (result,) = run.results
    assert result.boundary.stop is StopReason.PROVEN
    assert result.boundary.largest is not None
    assert result.recommendation is not None
    return result.boundary.largest


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("--", sys.executable, SCRIPTS, "plain", "{batch}")
    return run_of(*words, cwd=tmp_path_factory.mktemp("plain"))


def test_a_script_has_the_boundary_of_its_network_by_factory(plain: Run, tmp_path: Path) -> None:
    words = ("--model=tests.support.training_scripts:build", "--precision=fp32")
    size = "x".join(map(str, SIDES))
    by_factory = run_of(*words, f"--resolution={size}", cwd=tmp_path)
    assert abs(largest(plain) - largest(by_factory)) <= 1
    facts = [trial.script for trial in plain.trials if trial.script and trial.ran]
    assert {each.view for each in facts} == {View.INSIDE}
    assert {each.limit for each in facts} == {MemoryLimit.DATA_ABOVE_PYTORCH}
    assert {each.optimizer for each in facts} == {"SGD"}


def test_a_script_with_data_loader_workers_and_a_fork_has_a_boundary(
    plain: Run, tmp_path: Path
) -> None:
    run = run_of("--", sys.executable, SCRIPTS, "loader", "{batch}", cwd=tmp_path)
    assert abs(largest(run) - largest(plain)) <= 2  # the loader holds batches of its own


def test_the_weakest_rank_of_torchrun_decides(tmp_path: Path) -> None:
    launch = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
    run = run_of("--", *launch, SCRIPTS, "distributed", "{batch}", cwd=tmp_path)
    assert largest(run) > 1
    assert run.best is not None
    plan = run.best.plan
    assert plan.effective_batch == 2 * plan.micro_batch
    assert {trial.script.ranks for trial in run.trials if trial.script and trial.ran} == {2}


def test_a_script_that_swallows_its_own_out_of_memory_has_its_boundary(
    plain: Run, tmp_path: Path
) -> None:
    run = run_of("--", sys.executable, SCRIPTS, "swallow", "{batch}", cwd=tmp_path)
    assert abs(largest(run) - largest(plain)) <= 1


def test_a_script_that_dies_of_a_bug_has_no_boundary(tmp_path: Path) -> None:
    run = run_of("--", sys.executable, SCRIPTS, "bug", "{batch}", cwd=tmp_path)
    (result,) = run.results
    assert (result.boundary.stop, result.boundary.largest) == (StopReason.FAILED, 2)
    assert result.recommendation is None
    assert "no memory of class 4" in result.boundary.detail


def test_a_numpy_program_has_a_boundary(tmp_path: Path) -> None:
    (tmp_path / "fill.py").write_text(
        "import sys, numpy\nnumpy.ones((int(sys.argv[1]), 4, 2**20)).sum()"  # 32 MiB an image
    )
    run = run_of("--", sys.executable, "fill.py", "{batch}", cwd=tmp_path)
    assert 6 <= largest(run) <= 9
    facts = {(trial.script.view, trial.script.limit) for trial in run.trials if trial.script}
    assert facts == {(View.WITHOUT_PYTORCH, MemoryLimit.DATA)}


def test_a_script_that_keeps_bsprobe_out_is_measured_from_outside(tmp_path: Path) -> None:
    words = ("--seconds=8", "--max-batch=1", "--", sys.executable, "-I", SCRIPTS, "plain")
    options = ("run", "--device=cpu", "--memory-limit=2GiB", "--out=out")
    done = bsprobe(*options, *words, "{batch}", cwd=tmp_path)
    assert "not seen to step" in done.stdout
    assert "-I" in done.stdout
    (trial,) = {trial.spec: trial for trial in load_run(tmp_path / "out").trials}.values()
    assert trial.script is not None
    assert trial.script.view is View.KEPT_OUT
    assert trial.measurement is not None
    assert trial.measurement.peak_bytes > 300 * 2**20
