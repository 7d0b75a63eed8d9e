"""Records on this machine's GPU what predictions are held against; runs unattended.

    PYTHONPATH=. python benchmarks/record_truth.py --out DIR [--tier 1|2|3|4|all] [--minutes 8]

Run it at the root of a checkout; what bsprobe depends on must be installed, bsprobe need not.
What is in DIR already is left as it is: started again, it goes on where it stopped, so short
sessions add up; what came to nothing is tried again, once a session and last. To record something
anew, delete its file. DIR is `tests/data/truth` unless it is given. `--archive FILE.tar` keeps tar
archives of DIR, FILE-1.tar and on, written anew after every configuration.

1. Peaks and the allocator's whole history of a training step: 40 variants at two batch sizes.
2. Exact boundaries, by `bsprobe run --search guided` under memory limits: 25 runs of minutes.
3. What is off by default (cudnn.benchmark, checkpointing, AdamW, accumulation, evaluation,
   expandable segments), and images per second against the batch.
4. Networks and losses of other people's kind (`recorded_networks.py`).

Everything is recorded in the order of its value per second: tier 4, the first half of tier 1, the
memory of tier 3, the rest of tier 1, tier 2, the times of tier 3. Configurations share a process as
far as they can. `--rehearse` records a small network instead, to see that all of it works here.

Where `nvidia-cudnn-frontend` is installed, it also says how cuDNN describes the card. What becomes
of it all: `benchmarks/judge.sh`.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import torch

from benchmarks.script_errors import exit_from
from benchmarks.truth_archive import pack
from benchmarks.truth_plan import BoundarySearch, Configuration, in_order, rehearsed
from benchmarks.truth_records import (
    ROOT,
    boundary_folder,
    folder_of,
    save_trial,
    trial_path,
    unfinished_folder,
)
from benchmarks.truth_trials import (
    MOST_IN_A_ROW,
    START_AGAIN,
    STOPPED,
    being_recorded,
    died,
    record_here,
    waiting,
)
from bsprobe.records.errors import BsprobeError, DeviceError, WorkerError
from bsprobe.records.units import GIB
from bsprobe.storage.journal import NAME as JOURNAL
from bsprobe.storage.runfile import NAME as RUN

TIERS = ("1", "2", "3", "4", "all")
BROKEN = BsprobeError.exit_code
"""Exit status of a process that met something that concerns more than one trial."""
_GRACE_SECONDS = 20.0
"""For a child to end by itself after its time is up."""
_LEAST_SECONDS = 30.0
"""With less time left than this nothing is started."""
_LAST_WORDS = 3000
_TRIAL_TIMEOUT_SECONDS = 120

Spawn = Callable[[Sequence[str], dict[str, str], float], "Ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child process ended."""

    status: int
    in_time: bool
    last_words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One start of this script."""

    root: Path
    folder: Path
    deadline: float
    """By `time.monotonic()`."""
    since: str
    """When it began, ISO 8601 in UTC."""
    archive: Path | None
    spawn: Spawn
    is_rehearsal: bool = False

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def has_time(self) -> bool:
        """Whether to start something."""
        return self.seconds_left > _LEAST_SECONDS

    def waiting(self, plan: Sequence[Configuration]) -> tuple[Configuration, ...]:
        """The configurations that are still to be recorded."""
        return waiting(self.folder, plan, since=self.since)

    def record_in_a_process(self, plan: Sequence[Configuration]) -> Ended:
        """Run this script in a process of its own, to record configurations that share one."""
        names = [each.name for each in plan]
        command = [sys.executable, __file__, "--out", str(self.root), "--since", self.since]
        command += ["--minutes", f"{self.seconds_left / 60:.3f}", "--child", ",".join(names)]
        if self.archive is not None:
            command += ["--archive", str(self.archive)]
        if self.is_rehearsal:
            command += ["--rehearse"]
        return self.spawn(command, dict(plan[0].environment), self.seconds_left + _GRACE_SECONDS)


def record_trials(session: Session, plan: Sequence[Configuration]) -> None:
    """Record configurations, those that share a process one after the other in one."""
    for _, sharing in groupby(plan, key=lambda each: each.process):
        _record_sharing(session, tuple(sharing))


def record_boundaries(session: Session, plan: Sequence[BoundarySearch]) -> None:
    """Boundaries; an unfinished search is kept beside the others and gone on with."""
    for search in plan:
        if (boundary_folder(session.folder, search.name) / RUN).exists():
            continue
        if not session.has_time():
            return
        try:
            ended = _search(session, search)
        finally:
            pack(session.root, session.archive)
        if not ended.in_time:
            return


def run_command(search: BoundarySearch, folder: Path) -> list[str]:
    """The `bsprobe run` that finds boundaries, or goes on with finding them."""
    variant = search.variant
    begun = ["--resume"] if (folder / JOURNAL).exists() else []
    return [
        *(sys.executable, "-m", "bsprobe", "run", *begun, "--out", str(folder)),
        *("--device", "cuda", "--memory-limit", f"{search.limit_bytes // GIB}GiB"),
        *("--search", "guided", "--trial-timeout", str(_TRIAL_TIMEOUT_SECONDS)),
        *("--model", variant.model, "--input", f"{variant.channels}x{variant.resolution}"),
        *("--precision", ",".join(search.precisions), "--norm", ",".join(search.norms)),
        *("--memory-format", variant.memory_format, "--optimizer", variant.optimizer),
        *("--checkpointing", variant.checkpointing),
        *(() if variant.own.own_loss is None else ("--loss", variant.own.own_loss)),
    ]


def spawn(command: Sequence[str], environment: dict[str, str], seconds: float) -> Ended:
    """Run a process to its end, or interrupt it when its time is up."""
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        in_time = True
        try:
            _, said = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            in_time = False
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                _, said = process.communicate()
    return Ended(status=process.returncode, in_time=in_time, last_words=said[-_LAST_WORDS:])


def _record_sharing(session: Session, plan: Sequence[Configuration]) -> None:
    """Record configurations in one process, or a few where one was spoilt or died."""
    in_vain = 0
    left = session.waiting(plan)
    while left and session.has_time():
        ended = session.record_in_a_process(left)
        if not ended.in_time or ended.status in (0, STOPPED):
            return
        if ended.status == BROKEN:
            raise _broken(ended)
        before, left = left, session.waiting(plan)
        in_vain = 0 if len(left) < len(before) else in_vain + 1
        if ended.status != START_AGAIN:
            left = _note_death(session, left, ended)
        if in_vain == MOST_IN_A_ROW:
            print(f"Stopped: {in_vain} processes in a row recorded nothing.", flush=True)
            return


def _search(session: Session, search: BoundarySearch) -> Ended:
    """Run one search, or go on with it; whatever it has measured stays on the disk."""
    unfinished = unfinished_folder(session.folder, search.name)
    target = boundary_folder(session.folder, search.name)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    before = _journal_size(unfinished)
    command = run_command(search, unfinished)
    ended = session.spawn(command, {}, session.seconds_left)
    print(f"{search.name}: {'done' if ended.status == 0 else 'not finished'}", flush=True)
    if ended.status == 0:
        target.mkdir(parents=True, exist_ok=True)
        (unfinished / RUN).replace(target / RUN)
        (target / "failed.txt").unlink(missing_ok=True)
        _set_aside(unfinished)
    elif ended.in_time:  # tried again in the next session
        target.mkdir(parents=True, exist_ok=True)
        (target / "failed.txt").write_text(ended.last_words, encoding="utf-8")
        if (unfinished / RUN).exists() or before == _journal_size(unfinished):
            _set_aside(unfinished)  # there is nothing to go on with, or no way
    return ended


def _set_aside(folder: Path) -> None:
    """Give a folder another name, so that its own is free; nothing that was measured is deleted."""
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)


def _journal_size(folder: Path) -> int:
    path = folder / JOURNAL
    return path.stat().st_size if path.exists() else 0


def _broken(ended: Ended) -> WorkerError:
    """Something is wrong with more than one trial: nothing is recorded until it is mended."""
    return WorkerError(f"recording stopped with status {ended.status}:\n{ended.last_words.strip()}")


def _note_death(
    session: Session, left: Sequence[Configuration], ended: Ended
) -> tuple[Configuration, ...]:
    """Record the trial that a process died in as failed, unless it was saved before.

    Args:
        session: The session.
        left: The configurations that are still to be recorded.
        ended: How the process ended.

    Returns:
        The configurations that are left then: all of them where it died in no trial.
    """
    name = being_recorded(session.folder)
    print(f"{name or 'between two trials'}: died with status {ended.status}", flush=True)
    print(ended.last_words, file=sys.stderr, flush=True)
    for configuration in left:
        if configuration.name == name:
            trial = died(configuration, status=ended.status, last_words=ended.last_words)
            save_trial(trial_path(session.folder, name), trial, None)
    pack(session.root, session.archive)
    return tuple(each for each in left if each.name != name)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--tier", choices=TIERS, default="all")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="record a small network")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--since", default=_now(), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Record until the time is up or nothing is left; returns the exit status."""
    given = _arguments(arguments)
    deadline = time.monotonic() + given.minutes * 60
    root: Path = given.out.resolve()
    archive = None if given.archive is None else given.archive.resolve()
    stages = [each for each in in_order() if given.tier in (each.tier, "all")]
    if given.rehearse:
        stages = [rehearsed(each) for each in stages]
    plan = [each for stage in stages for each in stage.configurations]
    if given.child is not None:
        names = given.child.split(",")
        return record_here(
            [each for each in plan if each.name in names],
            root,
            deadline=deadline,
            since=given.since,
            after=lambda: pack(root, archive),
        )
    if not torch.cuda.is_available():
        raise DeviceError("there is no GPU here that PyTorch can use", hint="nvidia-smi")
    session = Session(
        root=root,
        # Asks the driver and opens no context, which would lie on the GPU beside every trial.
        folder=folder_of(root, torch.cuda.get_device_name(0)),
        deadline=deadline,
        since=given.since,
        archive=archive,
        spawn=spawn,
        is_rehearsal=given.rehearse,
    )
    for stage in stages:
        record_trials(session, stage.configurations)
        record_boundaries(session, stage.searches)
    searches = [each for stage in stages for each in stage.searches]
    _say_what_is_left(session, plan, searches)
    return 0


def _say_what_is_left(
    session: Session, plan: Sequence[Configuration], searches: Sequence[BoundarySearch]
) -> None:
    left = len(waiting(session.folder, plan, since=_now()))
    unfinished = sum(
        not (boundary_folder(session.folder, each.name) / RUN).exists() for each in searches
    )
    print(f"{session.folder.name}: {left} trials and {unfinished} boundaries are left to record.")
    if left or unfinished:
        print(f"Go on with: {shlex.join([sys.executable, *sys.argv])}")


if __name__ == "__main__":
    exit_from(main)
