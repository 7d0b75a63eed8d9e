"""Real commands whose processes are killed at random: the result is that of one left alone."""

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
    """A command, and what must not depend on kills."""

    words: tuple[str, ...]
    result: str
    """The file that it ends with."""
    said: Callable[[Any], Any]
    """The part of the result that is the same each time."""
    journal: str | None = None
    """None: it begins anew."""
    before: Callable[[Path], object] = field(default=lambda _: None)
    """Makes what it needs in a folder."""


def without(value: Any, *names: str) -> Any:
    """A JSON value without some fields, wherever they are."""
    if isinstance(value, dict):
        return {key: without(each, *names) for key, each in value.items() if key not in names}
    return [without(each, *names) for each in value] if isinstance(value, list) else value


def boundaries(run: Any) -> Any:
    """Batches and plans: on a CPU, times and so the fastest batch differ."""
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

By day a run is killed in `tests/cli/test_run.py`, a study in `test_study.py` beside it.
"""


def undisturbed(command: Command, folder: Path) -> tuple[Any, float]:
    """The result of a command that nobody disturbs, and for how many seconds it runs."""
    folder.mkdir()
    command.before(folder)
    started_at = time.monotonic()
    code, _, complaints = start(command, folder).finish()
    assert code == 0, complaints
    return said(command, folder), time.monotonic() - started_at


def start(command: Command, folder: Path) -> Started:
    """Begin a command, or go on with it."""
    resume = ["--resume"] if lines(command, folder) else []
    words = (sys.executable, "-m", "bsprobe", *command.words, "--out=out", *resume)
    return Started(words, folder)


def said(command: Command, folder: Path) -> Any:
    return command.said(json.loads((folder / "out" / command.result).read_text()))


def lines(command: Command, folder: Path) -> list[bytes]:
    """The whole lines of the journal."""
    path = folder / "out" / (command.journal or "")
    found = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [line for line in found if line.endswith(b"\n")]


def kill(started: Started, victim: Victim) -> bool:
    """Kill, once there is a worker to be killed; False where the command has ended before."""
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
def test_killed_at_random_a_command_comes_to_the_same_end(
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
            ends = {0} if victim is Victim.WORKER else {0, -signal.SIGKILL}  # ended just before
            assert code in ends, complaints
        else:
            assert code == 0, complaints
        if code == 0:
            check_end(command, tmp_path, expected)
        elif command.journal is None:
            start_anew(tmp_path)


def check_end(command: Command, folder: Path, expected: Any) -> None:
    """Hold what was found against the reference; the next round begins anew."""
    assert said(command, folder) == expected
    made = [without(json.loads(line), *WORKER_DEPENDENT) for line in lines(command, folder)[1:]]
    specs = [json.dumps([each["spec"], each.get("fresh_process")]) for each in made]
    assert len(specs) == len(set(specs)), "something was made twice"
    start_anew(folder)


def start_anew(folder: Path) -> None:
    if (folder / "out").exists():
        (folder / "out").rename(folder / f"out-{len(list(folder.iterdir()))}")
