"""`bsprobe run -- COMMAND` with a program that writes its own records; its largest batch is 12."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.storage.journal import read_journal
from bsprobe.storage.runfile import load_run
from tests.support.births import becomes
from tests.support.commands import ROOT, assert_no_trial_was_repeated, bsprobe, python_path
from tests.support.torchrun import Started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are probed on Linux")
PROGRAM = str(ROOT / "tests" / "support" / "recording_script.py")
CPU = ("--device=cpu", "--memory-limit=1GiB")
RUN = ("run", *CPU, "--out=out")
TRAIN = ("--", sys.executable, PROGRAM, "train", "{batch}")


def test_the_boundary_of_a_command_is_proven_and_it_ends_with_the_command_to_train_with(
    tmp_path: Path,
) -> None:
    done = bsprobe(*RUN, "--base-lr=0.1", "--base-batch=4", *TRAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "out")
    (result,) = run.results
    assert result.boundary == Boundary(stop=StopReason.PROVEN, largest=12, first_failure=13)
    assert all(trial.fresh_process for trial in run.trials)
    item = result.recommendation
    assert item is not None
    assert item.trial is not None
    assert item.trial.outcome is Outcome.FITS
    rate = 0.1 * (item.plan.effective_batch / 4) ** 0.5  # the records name AdamW
    assert item.plan.learning_rate == pytest.approx(rate)
    lines = done.stdout.splitlines()
    assert f"  {sys.executable} {PROGRAM} train {item.plan.micro_batch}" in lines
    assert "about" in done.stderr  # how often it runs
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"run.json", "report.md", "recommendation.csv", "memory.png"} <= names
    assert "snippet.py" not in names


def test_only_multiples_are_tried(tmp_path: Path) -> None:
    done = bsprobe(*RUN, "--batch-multiple=4", *TRAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "out")
    assert {trial.spec.batch_size % 4 for trial in run.trials} == {0}
    assert run.results[0].boundary == Boundary(stop=StopReason.PROVEN, largest=12, first_failure=16)


def test_a_target_batch_is_accumulated_if_the_command_takes_the_steps(tmp_path: Path) -> None:
    words = (*RUN, "--target-batch=24", *TRAIN)
    assert bsprobe(*words, "{accumulation}", cwd=tmp_path).returncode == 0
    item = load_run(tmp_path / "out").best
    assert item is not None
    assert item.trial is not None
    assert item.plan.effective_batch == 24
    assert item.plan.accumulation_steps == item.trial.spec.accumulation_steps == 2

    shutil.rmtree(tmp_path / "out")
    done = bsprobe(*words, cwd=tmp_path)
    item = load_run(tmp_path / "out").best
    assert item is not None
    assert (item.plan.accumulation_steps, item.reaches_target) == (1, False)
    assert "{accumulation}" in done.stdout


def test_a_command_that_fails_for_another_reason_has_no_boundary(tmp_path: Path) -> None:
    words = ("--", sys.executable, PROGRAM, "bug", "{batch}")
    done = bsprobe(*RUN, *words, cwd=tmp_path)
    assert done.returncode == 0
    (result,) = load_run(tmp_path / "out").results
    assert (result.boundary.stop, result.boundary.largest) == (StopReason.FAILED, 2)
    assert result.recommendation is None
    assert "ValueError: 4" in (tmp_path / "out" / "report.md").read_text()


def test_a_script_without_a_step_is_undecided_in_one_line(tmp_path: Path) -> None:
    words = ("--seconds=0.5", "--", sys.executable, PROGRAM, "imports", "{batch}")
    done = bsprobe(*RUN, *words, cwd=tmp_path)
    assert "--seconds" in done.stdout
    (result,) = load_run(tmp_path / "out").results
    assert (result.boundary.stop, result.boundary.largest) == (StopReason.TIME, None)


def test_an_undecided_batch_is_told_beside_the_recommendation(tmp_path: Path) -> None:
    words = ("--seconds=1", "--", sys.executable, PROGRAM, "late", "{batch}")
    done = bsprobe(*RUN, *words, cwd=tmp_path)
    assert "4 undecided" in done.stdout
    assert "--seconds" in done.stdout
    (result,) = load_run(tmp_path / "out").results
    assert (result.boundary.stop, result.boundary.largest) == (StopReason.TIME, 2)
    assert result.recommendation is not None


def test_a_program_that_reads_the_variable_is_served(tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text(
        "import os\nif int(os.environ['BSPROBE_BATCH']) > 3: raise MemoryError"
    )
    done = bsprobe(*RUN, "--", sys.executable, "reads.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "out").results[0].boundary.largest == 3
    assert f"  BSPROBE_BATCH=3 {sys.executable} reads.py" in done.stdout.splitlines()


def test_two_runs_of_one_command_are_compared(tmp_path: Path) -> None:
    for out in ("one", "two"):
        bsprobe("run", *CPU, f"--out={out}", "--max-batch=2", *TRAIN, cwd=tmp_path)
    done = bsprobe("compare", "one", "two", "--fail-on=throughput:99%", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["python", "train.py", "--bs", "{batch}"], "must follow --", "bsprobe run -- python"),
        (
            ["--device", "cpu", "--dry-run", "--steps=3", "python", "a.py", "{batch}"],
            "must follow --",
            "bsprobe run --device cpu --dry-run --steps=3 -- python a.py {batch}",
        ),
        (["--device=cpu", "--"], "no command after --", "bsprobe run -- python"),
        (["train.py"], "unexpected argument 'train.py'", "follows --"),
        (["--", "python", "train.py"], "has no {batch}", "env BATCH_SIZE={batch} python"),
        (["--seconds=5"], "--seconds needs a command", "bsprobe run -- "),
        (["--model=fcn", "--", "a", "{batch}"], "--model does not apply", "leave --model out"),
        (["--gpu=T4", "--", "a", "{batch}"], "--gpu does not apply", "leave --gpu out"),
        (["--", "no-such-program", "{batch}"], "'no-such-program', which is not", "shell"),
        (["--", "./script.py", "{batch}"], "is not executable", "python ./script.py"),
        (["--device=cpu", "--memory-limit=1GiB,2GiB", *TRAIN], "2 limits", "give one"),
        (["--batch-multiple=8", "--max-batch=4", *TRAIN], "--batch-multiple 8", "--max-batch"),
        (["--batch-multiple=8", "--search=guided"], "--batch-multiple", "--search guided"),
    ],
)
def test_a_command_that_cannot_be_probed_is_refused_in_two_lines(
    words: list[str], message: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text("")
    done = bsprobe("run", *words, cwd=tmp_path)
    assert done.returncode == 2
    said, _, advice = done.stderr.partition("\nhint: ")
    assert message in said
    assert hint in advice
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_a_command_is_not_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = bsprobe("run", *TRAIN, cwd=tmp_path)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr


def test_torchrun_stands_in_the_command(tmp_path: Path) -> None:
    launch = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    launch |= {"MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    done = bsprobe("run", *TRAIN, cwd=tmp_path, **launch)
    assert done.returncode == 2
    assert "bsprobe run -- torchrun" in done.stderr


def test_the_plan_of_a_command_runs_nothing(tmp_path: Path) -> None:
    done = bsprobe(*RUN, "--dry-run", *TRAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 optimizer steps" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_repeats_no_trial_and_takes_the_same_command(tmp_path: Path) -> None:
    bsprobe(*RUN, *TRAIN, cwd=tmp_path)
    out = tmp_path / "out"
    whole = read_journal(out).trials
    journal = out / "journal.jsonl"
    kept = b"".join(journal.read_bytes().splitlines(keepends=True)[:4])
    shutil.rmtree(out)
    out.mkdir()
    journal.write_bytes(kept)

    other = bsprobe("run", "--resume", "--out=out", *TRAIN, "more", cwd=tmp_path)
    assert other.returncode == 2
    assert "command differs" in other.stderr

    done = bsprobe("run", "--resume", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_no_trial_was_repeated(out)
    resumed = load_run(out)
    assert resumed.results[0].boundary.largest == 12
    assert [t.spec.batch_size for t in resumed.trials][:3] == [t.spec.batch_size for t in whole][:3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_keeps_its_trials(
    number: int, tmp_path: Path
) -> None:
    """The command ignores SIGTERM and starts a process in a session of its own."""
    words = (sys.executable, "-m", "bsprobe", *RUN, "--warmup-steps=900", "--", sys.executable)
    started = Started((*words, PROGRAM, "stubborn", "{batch}"), tmp_path)
    try:
        assert becomes(lambda: len(started.alive(PROGRAM, "stubborn", "1")) > 0, within=60)
        os.kill(started.process.pid, number)
        code, _, err = started.finish(60)
        assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert ("bsprobe run --resume --out out" in err) is (number == signal.SIGINT)
        assert started.all_gone(within=5), started.described()
    finally:
        for pid in started.alive():
            os.kill(pid, signal.SIGKILL)
    header = json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[0])
    assert header["settings"]["variants"][0]["script"]["command"][-1] == "{batch}"


def test_files_written_into_the_working_directory_are_told_after_the_first_trial(
    tmp_path: Path,
) -> None:
    (tmp_path / "saves.py").write_text("open('model.pt', 'w').write('weights')")
    words = ("--max-batch=2", "--", sys.executable, "saves.py", "{batch}")
    done = bsprobe(*RUN, *words, cwd=tmp_path)
    assert "model.pt" in done.stdout
    told = done.stderr.splitlines()  # at once, before the second trial
    assert next(n for n, line in enumerate(told) if "model.pt" in line) < next(
        n for n, line in enumerate(told) if line.startswith("  batch 2")
    )
    first, *others = load_run(tmp_path / "out").trials
    assert first.script is not None
    assert first.script.wrote == ("model.pt",)
    assert not any(trial.script and trial.script.wrote for trial in others)


def test_the_output_of_bsprobe_is_not_a_file_of_the_command(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "bsprobe", *RUN, "--max-batch=1", *TRAIN)
    with (tmp_path / "log.txt").open("w") as log:
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": python_path()},
            stdout=log,
            stderr=log,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0
    (trial, *_) = load_run(tmp_path / "out").trials
    assert trial.script is not None
    assert trial.script.wrote == ()
