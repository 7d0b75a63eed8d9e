"""Ranks that torchrun starts: one search, the weakest rank decides, and no rank hangs."""

import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Run, StopReason
from bsprobe.records.trials import Purpose
from bsprobe.storage.journal import read_journal
from bsprobe.storage.runfile import load_run
from tests.support.stubbed_bsprobe import OPTIONS, SILENCE
from tests.support.torchrun import Started, by_hand, free_port, stubbed, torchrun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ON_CPU = ("--device=cpu", "--memory-limit=1GiB", "--out=out")
RUN = ("run", *OPTIONS, *ON_CPU)
ONE_NORM = tuple("--norm=batch" if word.startswith("--norm=") else word for word in RUN)
TINY = (
    *("--device=cpu", "--model=deeplabv2-mini", "--precision=fp32", "--norm=batch"),
    *("--target-batch=4", "--out=out"),
)


def outcomes(run: Run) -> list[tuple[int, str, int | None]]:
    """Return batch, outcome and rank of the first variant's trials, without recommended ones."""
    first = run.settings.variants[0]
    return [
        (trial.spec.batch_size, str(trial.outcome), trial.rank)
        for trial in run.trials
        if trial.spec.variant == first and trial.purpose is not Purpose.RECOMMENDED
    ]


@pytest.mark.nightly
def test_the_weakest_rank_decides_while_the_other_hangs(tmp_path: Path) -> None:
    started = torchrun(*stubbed("together", *ONE_NORM), cwd=tmp_path)
    code, printed, complaints = started.finish()
    assert code == 0, complaints
    run = load_run(tmp_path / "out")
    assert outcomes(run) == [
        (1, "fits", 0),
        (2, "fits", 0),
        (4, "fits", 0),
        (8, "out of memory", 1),
        (6, "fits", 0),
        (7, "out of memory", 1),
    ]
    assert all(trial.fresh_process for trial in run.trials)
    plans = [r.recommendation.plan for r in run.results if r.recommendation is not None]
    assert [(p.micro_batch, p.accumulation_steps, p.effective_batch) for p in plans] == [(6, 1, 12)]
    rates = [(t.measurement.images_per_second or 0.0, t) for t in run.trials if t.measurement]
    assert {rate / trial.spec.batch_size for rate, trial in rates} == {20.0}
    assert (run.device.name, run.settings.processes) == ("stub", 2)
    assert run.environment.command.startswith("torchrun --nproc-per-node 2 -m bsprobe run ")
    assert printed.count("7 out of memory on rank 1") == 1
    assert printed.count("For an effective batch of 12 (use x 2 processes):") == 1, "rank 1 printed"
    assert started.all_gone()


@pytest.mark.nightly
def test_all_ranks_repeat_a_trial_whose_worker_was_killed(tmp_path: Path) -> None:
    started = torchrun(*stubbed("together-killed", *ONE_NORM, "--max-batch=4"), cwd=tmp_path)
    code, _, complaints = started.finish()
    assert code == 0, complaints
    assert outcomes(load_run(tmp_path / "out")) == [
        (1, "fits", 0),
        (2, "fits", 0),
        (4, "fits", 0),
    ]
    assert all((tmp_path / f"seen-{rank}").exists() for rank in (0, 1))
    assert started.all_gone()


@pytest.mark.nightly
def test_a_rank_that_cannot_open_its_device_ends_the_run_and_rank_0_prints_the_error(
    tmp_path: Path,
) -> None:
    started = torchrun(*stubbed("refuse-rank-1", *RUN), cwd=tmp_path)
    code, _, complaints = started.finish()
    assert code != 0
    assert complaints.count("error: rank 1 ended: there is no GPU 1") == 1
    assert complaints.count("error:") == 1
    assert started.all_gone()


def wait_for_both_workers_to_wait(folder: Path) -> None:
    """Wait until the third trial, batch 4, hangs on both ranks."""
    deadline = time.monotonic() + 120
    while not all((folder / f"waiting-{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def parent_of_rank(started: Started, rank: int) -> int:
    (pid,) = [
        pid
        for pid in started.alive("run", "--out=out")
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    return pid


@pytest.mark.nightly
def test_a_killed_parent_ends_all_processes_of_all_ranks(tmp_path: Path) -> None:
    started = torchrun(*stubbed("hang-at-4", *RUN), cwd=tmp_path)
    wait_for_both_workers_to_wait(tmp_path)
    os.kill(parent_of_rank(started, 1), signal.SIGKILL)
    code, _, complaints = started.finish(timeout=60)
    assert code != 0
    assert "torchrun --nproc-per-node 2 -m bsprobe run --resume --out out" in complaints
    assert started.all_gone()
    assert [trial.spec.batch_size for trial in read_journal(tmp_path / "out").trials] == [1, 2]


@pytest.mark.nightly
def test_a_resumed_run_repeats_no_trial(tmp_path: Path) -> None:
    started = torchrun(*stubbed("hang-at-4", *RUN), cwd=tmp_path)
    wait_for_both_workers_to_wait(tmp_path)
    started.process.send_signal(signal.SIGINT)
    started.finish(timeout=60)
    assert started.all_gone()
    before = [trial.started_at for trial in read_journal(tmp_path / "out").trials]
    resumed = torchrun(*stubbed("together", *RUN, "--resume"), cwd=tmp_path)
    code, _, complaints = resumed.finish()
    assert code == 0, complaints
    run = load_run(tmp_path / "out")
    assert [trial.started_at for trial in run.trials[:2]] == before
    assert {result.boundary.largest for result in run.results} == {6}


@pytest.mark.nightly
def test_without_torchruns_store_rank_0_opens_one_and_a_silent_machine_ends_the_wait(
    tmp_path: Path,
) -> None:
    port, program = free_port(), stubbed("hang-at-4", *RUN)
    ranks = [
        by_hand(rank, port, *program, cwd=tmp_path, mark=uuid.uuid4().hex, **{SILENCE: "4"})
        for rank in (0, 1)
    ]
    wait_for_both_workers_to_wait(tmp_path)
    ranks[1].process.kill()
    for worker in ranks[1].alive():  # as if the machine had failed
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(worker, signal.SIGKILL)
    code, _, complaints = ranks[0].finish(timeout=90)
    ranks[1].finish()
    assert (code, "error: rank 1 has sent no heartbeat for 4 s" in complaints) == (2, True)
    assert ranks[0].all_gone()


@pytest.mark.nightly
def test_ranks_with_different_options_do_not_start(tmp_path: Path) -> None:
    port, mark = free_port(), uuid.uuid4().hex
    ranks = [
        by_hand(rank, port, *stubbed("together", *RUN, f"--seed={rank}"), cwd=tmp_path, mark=mark)
        for rank in (0, 1)
    ]
    (code, _, complaints), (other_code, _, silence) = (rank.finish() for rank in ranks)
    assert (code, other_code) == (2, 2)
    assert "error: rank 1 was started with other options than rank 0: seed" in complaints
    assert "error:" not in silence


@pytest.mark.nightly
def test_a_rank_that_really_runs_out_of_memory_does_not_leave_the_other_in_a_collective(
    tmp_path: Path,
) -> None:
    """Real steps over Gloo: rank 0 has enough memory and waits for the gradients of rank 1."""
    program = ("-m", "bsprobe", "run", *TINY, "--resolution=256x512")
    started = torchrun(*program, "--memory-limit=2GiB,64MiB", cwd=tmp_path)
    code, printed, complaints = started.finish()
    assert code == 0, complaints
    assert "1 out of memory on rank 1  -> nothing fits" in printed
    (trial,) = load_run(tmp_path / "out").trials
    assert (trial.outcome, trial.rank, trial.fresh_process) == (Outcome.OUT_OF_MEMORY, 1, True)
    assert trial.wall_seconds < 120
    assert started.all_gone()


@pytest.mark.nightly
def test_a_whole_search_with_one_rank_that_has_less_memory(tmp_path: Path) -> None:
    program = ("-m", "bsprobe", "run", *TINY, "--resolution=64x128")
    started = torchrun(*program, "--memory-limit=900MiB,80MiB", cwd=tmp_path)
    code, _, complaints = started.finish(timeout=900)
    assert code == 0, complaints
    run = load_run(tmp_path / "out")
    (result,) = run.results
    assert result.boundary.stop is StopReason.PROVEN
    failed = [trial for trial in run.trials if not trial.ran]
    assert {(trial.outcome, trial.rank) for trial in failed} == {(Outcome.OUT_OF_MEMORY, 1)}
    assert result.recommendation is not None
    assert result.recommendation.plan.effective_batch == 4
    assert result.recommendation.plan.processes == 2
    assert run.device.capacity_bytes == 80 * 2**20
    assert started.all_gone()
