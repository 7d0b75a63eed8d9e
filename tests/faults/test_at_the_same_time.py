"""Other commands on a run that goes on: one line each, and the run is not disturbed."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import assert_no_trial_was_repeated
from tests.support.stubbed_bsprobe import RUN, findings, finish, start


@pytest.fixture
def going_on(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """A run in `out` that has ended two trials and waits in the third."""
    process = start(*RUN, cwd=tmp_path, behaviour="hang-at-4")
    until = time.monotonic() + 60
    while not (tmp_path / "waiting-alone").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    yield process
    process.kill()
    process.communicate()


def test_other_commands_on_a_run_that_goes_on_are_refused_and_it_loses_nothing(
    tmp_path: Path, reference: Path, going_on: "subprocess.Popen[str]"
) -> None:
    journal = tmp_path / "out" / "journal.jsonl"
    before = journal.read_bytes()
    commands = {
        ("report", "out"): "the run in out is not finished",
        ("report", "out", str(reference)): "the run in out is not finished",
        ("compare", str(reference), "out"): "the run in out is not finished",
        ("report", "out/journal.jsonl"): "out/journal.jsonl is not the file of a run",
        (*RUN, "--resume"): "another bsprobe command is writing to out",
        RUN: "--out out exists and is not an empty folder",
        (*RUN, "--dry-run"): "--out out exists and is not an empty folder",
    }
    started = {words: start(*words, cwd=tmp_path) for words in commands}
    for words, process in started.items():
        code, printed, complaints = finish(process)
        error, hint = complaints.splitlines()
        assert (code, printed) == (2, ""), words
        assert error.startswith(f"error: {commands[words]}")
        assert hint.startswith("hint: ")
    assert journal.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["journal.jsonl"]
    going_on.send_signal(signal.SIGINT)
    assert finish(going_on)[0] == 130
    assert finish(start(*RUN, "--resume", cwd=tmp_path))[0] == 0
    assert findings(tmp_path / "out") == findings(reference)
    assert_no_trial_was_repeated(tmp_path / "out")


def test_of_two_runs_that_begin_in_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    both = [start(*RUN, cwd=tmp_path, behaviour="hang-at-4") for _ in range(2)]
    while all(process.poll() is None for process in both):
        time.sleep(0.05)
    ended = next(process for process in both if process.poll() is not None)
    code, printed, complaints = finish(ended)
    (other,) = [process for process in both if process is not ended]
    assert (code, printed) == (2, "")
    error, _ = complaints.splitlines()
    assert error.startswith(
        ("error: another bsprobe command is writing to out", "error: --out out exists")
    )
    other.kill()
    other.communicate()
