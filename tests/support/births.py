"""Programs that are started as workers are, forked or spawned."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from bsprobe.worker import spawning
from bsprobe.worker.spawning import SPAWN, ChildProcess

MODULE = "tests.support.given_program"
COMMAND = (sys.executable, "-m", MODULE)


class Ended(NamedTuple):
    """The status and the words that are left of a process."""

    status: int
    said: str
    complained: str


class Started:
    """A process of a test."""

    def __init__(self, process: ChildProcess, stderr: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._stderr = stderr

    def ended(self) -> Ended:
        """Wait for its end; its watcher would take the end of its input for that of its parent."""
        said = self.stdout.read().decode()
        status = self.process.wait(timeout=60)
        self._stderr.seek(0)
        return Ended(status, said, self._stderr.read().decode())


@contextmanager
def started(program: str, *, spawned: bool = False, **environment: str) -> Iterator[Started]:
    """Start a program; what is left of it then is killed."""
    given = {"GIVEN_PROGRAM": program, SPAWN: str(int(spawned)), **environment}
    with tempfile.TemporaryFile() as stderr:
        process = spawning.prepared(COMMAND, given).start(stderr)
        begun = Started(process, stderr)
        try:
            yield begun
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            begun.stdin.close()
            begun.stdout.close()


def run(program: str, *, spawned: bool = False, **environment: str) -> Ended:
    """Run a program to its end."""
    with started(program, spawned=spawned, **environment) as begun:
        return begun.ended()


def is_alive(pid: int) -> bool:
    """Tell a process that runs from one that has ended, be it that nobody has asked how."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def forked_worker_of(parent: int) -> int | None:
    """A worker that a server of this process has forked; None where there is none now."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended
            if comm.read_text(encoding="ascii") == "bsprobe-worker\n":
                pid = int(comm.parent.name)
                if parent_of(parent_of(pid)) == parent:
                    return pid
    return None


def parent_of(pid: int) -> int:
    """The process that a process was started by, or was left to.

    Raises:
        OSError: It has ended.
    """
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(status.rpartition(")")[2].split()[1])


def becomes(happened: Callable[[], bool], *, within: float = 20) -> bool:
    """Wait so many seconds for something; says whether it happened."""
    deadline = time.monotonic() + within
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
