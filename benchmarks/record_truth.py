"""Record on this machine's GPU the measurements that predictions are compared with.

    PYTHONPATH=. python benchmarks/record_truth.py --out DIR [--tier 1|2|3|4|all] [--minutes 8]

Runs unattended. Run it in the root of a checkout; the dependencies of bsprobe must be installed,
bsprobe itself need not be. Existing results in DIR are kept and an interrupted recording continues,
so short sessions add up. Failed trials are repeated once per session, last. To record a trial
again, delete its file. DIR is `tests/data/truth` by default. `--archive FILE.tar` keeps tar
archives of DIR (FILE-1.tar, FILE-2.tar, ...), rewritten after every configuration.

1. Peaks and the allocator's whole history of a training step: 40 variants at two batch sizes.
2. Exact boundaries, by `bsprobe run --search guided` under memory limits: 25 runs of minutes.
3. Options that are off by default (cudnn.benchmark, checkpointing, AdamW, accumulation, validation,
   expandable segments), and images per second against the batch.
4. Networks and losses that bsprobe does not provide (`recorded_networks.py`).

The order is by value per second: tier 4, the first half of tier 1, the memory of tier 3, the rest
of tier 1, tier 2, the times of tier 3. Configurations share a process if they can. `--rehearse`
records a small network instead, to test the recording on this machine.

If `nvidia-cudnn-frontend` is installed, the record also holds cuDNN's description of the card.
`benchmarks/judge.sh` compares predictions with the recordings.
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
"""Exit status of a process with an error that concerns more than one trial."""
_CHECKOUT = Path(__file__).resolve().parents[1]
"""Children run here."""
_GRACE_SECONDS = 20.0
"""Time for a child to end by itself after its deadline."""
_LEAST_SECONDS = 30.0
"""Nothing is started with less time left than this."""
_LAST_WORDS = 3000
_TRIAL_TIMEOUT_SECONDS = 120

Spawn = Callable[[Sequence[str], dict[str, str], float], "Ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a child process."""

    status: int
    in_time: bool
    last_words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of this script."""

    root: Path
    folder: Path
    deadline: float
    """By `time.monotonic()`, in seconds."""
    since: str
    """The start of the session, ISO 8601 in UTC."""
    archive: Path | None
    spawn: Spawn
    is_rehearsal: bool = False

    @property
    def seconds_left(self) -> float:
        """Return the time until the deadline."""
        return self.deadline - time.monotonic()

    def has_time(self) -> bool:
        """True if there is time to start something."""
        return self.seconds_left > _LEAST_SECONDS

    def waiting(self, plan: Sequence[Configuration]) -> tuple[Configuration, ...]:
        """Return the configurations that are still to be recorded."""
        return waiting(self.folder, plan, since=self.since)

    def record_in_a_process(self, plan: Sequence[Configuration]) -> Ended:
        """Run this script in a new process, to record configurations that share one."""
        names = [each.name for each in plan]
        command = [sys.executable, __file__, "--out", str(self.root), "--since", self.since]
        command += ["--minutes", f"{self.seconds_left / 60:.3f}", "--child", ",".join(names)]
        if self.archive is not None:
            command += ["--archive", str(self.archive)]
        if self.is_rehearsal:
            command += ["--rehearse"]
        return self.spawn(command, dict(plan[0].environment), self.seconds_left + _GRACE_SECONDS)


def record_trials(session: Session, plan: Sequence[Configuration]) -> None:
    """Record configurations; those that share a process are recorded in one, in order."""
    for _, sharing in groupby(plan, key=lambda each: each.process):
        _record_sharing(session, tuple(sharing))


def record_boundaries(session: Session, plan: Sequence[BoundarySearch]) -> None:
    """Record boundaries; an unfinished search is kept in another folder and continued."""
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
    """Return the `bsprobe run` that starts or continues a search for boundaries."""
    variant = search.variant
    begun = ["--resume"] if (folder / JOURNAL).exists() else []
    # The run file keeps the command: it names no folder outside the checkout, where it runs.
    inside = folder.is_relative_to(_CHECKOUT)
    out = folder.relative_to(_CHECKOUT) if inside else folder
    return [
        *(sys.executable, "-m", "bsprobe", "run", *begun, "--out", str(out)),
        *("--device", "cuda", "--memory-limit", f"{search.limit_bytes // GIB}GiB"),
        *("--search", "guided", "--trial-timeout", str(_TRIAL_TIMEOUT_SECONDS)),
        *("--model", variant.model, "--input", f"{variant.channels}x{variant.resolution}"),
        *("--precision", ",".join(search.precisions), "--norm", ",".join(search.norms)),
        *("--memory-format", variant.memory_format, "--optimizer", variant.optimizer),
        *("--checkpointing", variant.checkpointing),
        *(() if variant.own.own_loss is None else ("--loss", variant.own.own_loss)),
    ]


def spawn(command: Sequence[str], environment: dict[str, str], seconds: float) -> Ended:
    """Run a process to its end, or interrupt it when its time is up.

    Args:
        command: The program and its arguments.
        environment: Variables added to those of this process.
        seconds: The time limit.
    """
    with subprocess.Popen(
        command,
        cwd=_CHECKOUT,
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
    """Record configurations in one process, or in more if a process was spoilt or died."""
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
    """Run or continue one search; its measurements stay on the disk."""
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
    elif ended.in_time:  # the next session tries again
        target.mkdir(parents=True, exist_ok=True)
        (target / "failed.txt").write_text(ended.last_words, encoding="utf-8")
        if (unfinished / RUN).exists() or before == _journal_size(unfinished):
            _set_aside(unfinished)  # it cannot be continued
    return ended


def _set_aside(folder: Path) -> None:
    """Rename a folder so that its name is free; measurements are never deleted."""
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
    """Return the error that stops the recording, since more than one trial is affected."""
    return WorkerError(f"recording stopped with status {ended.status}:\n{ended.last_words.strip()}")


def _note_death(
    session: Session, left: Sequence[Configuration], ended: Ended
) -> tuple[Configuration, ...]:
    """Record the trial that a process died in as failed, unless it was saved before.

    Args:
        session: The session.
        left: The configurations that are still to be recorded.
        ended: How the process ended.

    The remaining configurations; all of them if the process died outside a trial.
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
    """Record until the time is up or nothing is left; return the exit status."""
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
        raise DeviceError("PyTorch finds no GPU", hint="nvidia-smi")
    session = Session(
        root=root,
        # Asks the driver, because a context here would take GPU memory during every trial.
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
        print(f"Continue with: {shlex.join([sys.executable, *sys.argv])}")


if __name__ == "__main__":
    exit_from(main)
