"""Commands whose processes are killed at random have the result of an undisturbed one."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from bsprobe.storage.journal import NAME
from bsprobe.study.journal import StudyJournal
from tests.support.births import forked_worker_of
from tests.support.commands import bsprobe
from tests.support.torchrun import Started

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
GONE_WITHIN_SECONDS = 5


class Victim(Enum):
    """The process that is killed."""

    PARENT = "parent"
    WORKER = "worker"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, and the part of its result that must not depend on kills."""

    words: tuple[str, ...]
    result: str
    """Name of the file with the result."""
    said: Callable[[Any], Any]
    """Returns the reproducible part of the result."""
    journal: str | None = None
    """Name of the journal; None if the command cannot be resumed."""
    before: Callable[[Path], object] = field(default=lambda _: None)
    """Prepares a folder."""


def without(value: Any, *names: str) -> Any:
    """A JSON value without some fields, at any depth."""
    if isinstance(value, dict):
        return {key: without(each, *names) for key, each in value.items() if key not in names}
    return [without(each, *names) for each in value] if isinstance(value, list) else value


def boundaries(run: Any) -> Any:
    """Batches and plans; times on a CPU, and with them the fastest batch, differ."""
    parts = ("largest", "safe", "plan")
    return [
        (result["boundary"], [result["recommendation"][part] for part in parts])
        for result in run["results"]
    ]


WORKER_DEPENDENT = ("environment", "started_at", "wall_seconds")
NETWORK = ("--model=tests.support.own_training:network", "--model-arg=width=32", "--norm=batch")
COMMANDS = {
    "run": Command(
        words=(
            *("run", "--device=cpu", "--memory-limit=236MiB", *NETWORK, "--resolution=256x256"),
            *("--precision=fp32", "--target-batch=4"),
        ),
        result="run.json",
        said=boundaries,
        journal=NAME,
    ),
    "predict": Command(
        words=(
            *("run", "--gpu=RTX 3060 12GB", *NETWORK, "--resolution=256x256"),
            *("--precision=fp32,amp-fp16", "--target-batch=8"),
        ),
        result="run.json",
        said=lambda run: without(run, *WORKER_DEPENDENT),
        journal=NAME,
    ),
    "study": Command(
        words=(
            *("study", "--data=D", "--device=cpu", "--memory-limit=2GiB", "--model=deeplabv2-mini"),
            *("--resolution=32x64", "--norm=group", "--batches=2", "--seeds=1", "--images=8"),
            *("--validations=2", "--workers=0"),
        ),
        result="study.json",
        said=lambda study: without(study["trainings"], *WORKER_DEPENDENT, "seconds", "peak_bytes"),
        journal=StudyJournal.NAME,
        before=lambda folder: bsprobe(
            "sample-data", "D", "--images=10", "--size=64x128", cwd=folder
        ),
    ),
    "explain": Command(
        words=(
            *("explain", "--gpu=RTX 3060 12GB", *NETWORK, "--resolution=64x64", "--max-batch=4"),
        ),
        result="explanation.json",
        said=lambda explained: without(explained, *WORKER_DEPENDENT),
    ),
}
ROUNDS = [(name, [*Victim] * 5, seed) for seed, name in enumerate(COMMANDS, start=1)]
"""Fifteen kills of each command, five of each victim.

The default tests kill a run in `tests/cli/test_run.py` and a study in `tests/cli/test_study.py`.
"""


def undisturbed(command: Command, folder: Path) -> tuple[Any, float]:
    """The result and the seconds of an undisturbed command."""
    folder.mkdir()
    command.before(folder)
    started_at = time.monotonic()
    code, _, complaints = start(command, folder).finish()
    assert code == 0, complaints
    return said(command, folder), time.monotonic() - started_at


def start(command: Command, folder: Path) -> Started:
    """Start a command, or resume it if it has a journal."""
    resume = ["--resume"] if lines(command, folder) else []
    words = (sys.executable, "-m", "bsprobe", *command.words, "--out=out", *resume)
    return Started(words, folder)


def said(command: Command, folder: Path) -> Any:
    return command.said(json.loads((folder / "out" / command.result).read_text()))


def lines(command: Command, folder: Path) -> list[bytes]:
    """The complete lines of the journal."""
    path = folder / "out" / (command.journal or "")
    found = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [line for line in found if line.endswith(b"\n")]


def kill(started: Started, victim: Victim) -> bool:
    """Kill the victim once it exists; False if the command has ended before."""
    while (worker := forked_worker_of(started.process.pid)) is None and victim is not Victim.PARENT:
        if started.process.poll() is not None:
            return False
        time.sleep(0.002)
    if started.process.poll() is not None:
        return False
    if worker is not None and victim is not Victim.PARENT:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    if victim is not Victim.WORKER:
        started.process.kill()
    return True


@pytest.mark.parametrize(("name", "victims", "seed"), ROUNDS)
def test_a_command_killed_at_random_has_the_same_result(
    tmp_path: Path, name: str, victims: Sequence[Victim], seed: int
) -> None:
    command, chance = COMMANDS[name], random.Random(seed)
    expected, seconds = undisturbed(command, tmp_path / "undisturbed")
    command.before(tmp_path)
    waiting, code = chance.sample(victims, k=len(victims)), -signal.SIGKILL
    while waiting or code != 0:
        before = lines(command, tmp_path)
        started = start(command, tmp_path)
        was_killed = False
        if waiting:
            time.sleep(chance.uniform(0, seconds))
            was_killed = kill(started, waiting[-1])
        code, _, complaints = started.finish()
        assert started.all_gone(within=GONE_WITHIN_SECONDS), (was_killed, code, started.described())
        assert lines(command, tmp_path)[: len(before)] == before
        if was_killed:
            victim = waiting.pop()
            # The command may have ended just before the kill.
            ends = {0} if victim is Victim.WORKER else {0, -signal.SIGKILL}
            assert code in ends, complaints
        else:
            assert code == 0, complaints
        if code == 0:
            check_end(command, tmp_path, expected)
        elif command.journal is None:
            start_anew(tmp_path)


def check_end(command: Command, folder: Path, expected: Any) -> None:
    """Compare the result with the reference, then start a new round."""
    assert said(command, folder) == expected
    made = [without(json.loads(line), *WORKER_DEPENDENT) for line in lines(command, folder)[1:]]
    specs = [json.dumps([each["spec"], each.get("fresh_process")]) for each in made]
    assert len(specs) == len(set(specs)), "a trial was repeated"
    start_anew(folder)


def start_anew(folder: Path) -> None:
    if (folder / "out").exists():
        (folder / "out").rename(folder / f"out-{len(list(folder.iterdir()))}")
