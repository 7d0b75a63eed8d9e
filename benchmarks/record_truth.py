"""Records on this machine's GPU what predictions are held against; runs unattended.

    PYTHONPATH=. python benchmarks/record_truth.py --out DIR [--tier 1|2|3|all] [--minutes 8]

Run it at the root of a checkout; what bsprobe depends on must be installed, bsprobe need not.
What is in DIR already is left as it is: started again, it goes on where it stopped, so short
sessions add up. To record something anew, delete its file. DIR is `tests/data/truth` unless it is
given. `--archive FILE` keeps a tar archive of DIR, written anew after every configuration.

1. Peaks and the allocator's whole history of a training step: 40 configurations at two batch sizes,
   the most valuable first, in one process; meant for 8 minutes on a large GPU and 16 MiB.
2. Exact boundaries, by `bsprobe run` under memory limits: 40 searches of a minute or so.
3. What is off by default (cudnn.benchmark, checkpointing, AdamW, accumulation, evaluation,
   expandable segments) and images per second against the batch; each in a process of its own.

Where `nvidia-cudnn-frontend` is installed, it also says how cuDNN describes the card. What becomes
of it all: `python benchmarks/accuracy.py`.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from truth_plan import BoundarySearch, Configuration, tier_1, tier_2, tier_3
from truth_records import ROOT, boundary_folder, folder_of, save_trial, trial_path
from truth_trials import START_AGAIN, died, record_here

from bsprobe.errors import BsprobeError, DeviceError, WorkerError
from bsprobe.runfile import NAME as RUN
from bsprobe.units import GIB

TIERS = ("1", "2", "3", "all")
TIER_1 = "tier-1"
_GRACE_SECONDS = 20.0
"""For a child to end by itself after its time is up."""
_LEAST_SECONDS = 30.0
"""With less time left than this nothing is started."""
_LAST_WORDS = 3000

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
    archive: Path | None
    spawn: Spawn

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def has_time(self) -> bool:
        """Whether to start something."""
        return self.seconds_left > _LEAST_SECONDS

    def run_this(self, what: str, environment: dict[str, str]) -> Ended:
        """Run this script in a process of its own, to record one tier or configuration."""
        command = [sys.executable, __file__, "--out", str(self.root), "--child", what]
        command += ["--minutes", f"{self.seconds_left / 60:.3f}"]
        if self.archive is not None:
            command += ["--archive", str(self.archive)]
        return self.spawn(command, environment, self.seconds_left + _GRACE_SECONDS)


def record_tier_1(session: Session, plan: Sequence[Configuration]) -> None:
    """Histories, one after the other in one process, as long as nothing is left behind in it."""
    while _missing(session, plan) and session.has_time():
        ended = session.run_this(TIER_1, {})
        if not ended.in_time or ended.status == 0:
            return
        if ended.status < 0:  # a signal ended it, in the first configuration that has no file
            for configuration in _missing(session, plan)[:1]:
                _note_death(session, configuration, ended)
        elif ended.status != START_AGAIN:
            raise _broken(ended)


def record_tier_2(session: Session, plan: Sequence[BoundarySearch]) -> None:
    """Boundaries; an unfinished search is kept beside the others and gone on with."""
    for search in plan:
        target = boundary_folder(session.folder, search.name)
        if (target / RUN).exists():
            continue
        if not session.has_time():
            return
        unfinished = session.folder / "unfinished" / search.name
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        ended = session.spawn(run_command(search, unfinished), {}, session.seconds_left)
        print(f"{search.name}: {'done' if ended.status == 0 else 'not finished'}", flush=True)
        if not ended.in_time:
            return
        target.mkdir(parents=True, exist_ok=True)
        if ended.status == 0:
            (unfinished / RUN).replace(target / RUN)
        else:  # tried again in the next session
            (target / "failed.txt").write_text(ended.last_words, encoding="utf-8")
        shutil.rmtree(unfinished, ignore_errors=True)
        pack(session.root, session.archive)


def record_tier_3(session: Session, plan: Sequence[Configuration]) -> None:
    """What needs a process of its own."""
    for configuration in _missing(session, plan):
        if not session.has_time():
            return
        ended = session.run_this(configuration.name, dict(configuration.environment))
        if ended.in_time and ended.status < 0:
            _note_death(session, configuration, ended)
        elif ended.in_time and ended.status not in (0, START_AGAIN):
            raise _broken(ended)


def run_command(search: BoundarySearch, folder: Path) -> list[str]:
    """The `bsprobe run` that finds a boundary, or goes on with finding it."""
    variant = search.variant
    return [
        *(sys.executable, "-m", "bsprobe", "run", "--resume", "--out", str(folder)),
        *("--device", "cuda", "--memory-limit", f"{search.limit_bytes // GIB}GiB"),
        *("--model", variant.model, "--resolution", str(variant.resolution)),
        *("--precision", variant.precision, "--norm", variant.norm),
        *("--memory-format", variant.memory_format),
    ]


def spawn(command: Sequence[str], environment: dict[str, str], seconds: float) -> Ended:
    """Run a process to its end, or interrupt it when its time is up."""
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
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


def pack(root: Path, archive: Path | None) -> None:
    """Put everything below a folder into one file, if one is wanted."""
    if archive is None:
        return
    partial = archive.with_name(f".{archive.name}.partial")
    with tarfile.open(partial, "w") as tar:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                tar.add(path, arcname=str(path.relative_to(root)))
    partial.replace(archive)


def _broken(ended: Ended) -> WorkerError:
    """Something is wrong with more than one trial: nothing is recorded until it is mended."""
    return WorkerError(f"recording stopped with status {ended.status}:\n{ended.last_words.strip()}")


def _missing(session: Session, plan: Sequence[Configuration]) -> list[Configuration]:
    return [each for each in plan if not trial_path(session.folder, each.name).exists()]


def _note_death(session: Session, configuration: Configuration, ended: Ended) -> None:
    trial = died(configuration, status=ended.status, last_words=ended.last_words)
    save_trial(trial_path(session.folder, configuration.name), trial, None)
    print(f"{configuration.name}: its process died with status {ended.status}", flush=True)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--tier", choices=TIERS, default="all")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record until the time is up or nothing is left; returns the exit status."""
    given = _arguments(arguments)
    deadline = time.monotonic() + given.minutes * 60
    root: Path = given.out.resolve()
    archive = None if given.archive is None else given.archive.resolve()
    if given.child is not None:
        wanted = tier_1() if given.child == TIER_1 else tier_3()
        plan = [each for each in wanted if given.child in (TIER_1, each.name)]
        return record_here(plan, root, deadline=deadline, after=lambda: pack(root, archive))
    if not torch.cuda.is_available():
        raise DeviceError("there is no GPU here that PyTorch can use", hint="nvidia-smi")
    session = Session(
        root=root,
        # Asks the driver and opens no context, which would lie on the GPU beside every trial.
        folder=folder_of(root, torch.cuda.get_device_name(0)),
        deadline=deadline,
        archive=archive,
        spawn=spawn,
    )
    if given.tier in ("1", "all"):
        record_tier_1(session, tier_1())
    if given.tier in ("2", "all"):
        record_tier_2(session, tier_2())
    if given.tier in ("3", "all"):
        record_tier_3(session, tier_3())
    left = len(_missing(session, [*tier_1(), *tier_3()]))
    searches = sum(
        not (boundary_folder(session.folder, each.name) / RUN).exists() for each in tier_2()
    )
    print(f"{session.folder.name}: {left} trials and {searches} boundaries are left to record.")
    if left or searches:
        print(f"Go on with: {shlex.join([sys.executable, *sys.argv])}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BsprobeError as problem:
        hint = f"\nhint: {problem.hint}" if problem.hint else ""
        sys.exit(f"error: {problem}{hint}")
