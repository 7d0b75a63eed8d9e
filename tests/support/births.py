"""Programs started in the same way as workers, forked or spawned."""

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
    """The exit status and standard error of a process."""

    status: int
    said: str
    complained: str


class Started:
    """A running process of a test."""

    def __init__(self, process: ChildProcess, stderr: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._stderr = stderr

    def go_on(self) -> None:
        """Send the program the line that it waits for.

        Closing its input would mean a dead parent: its watcher kills it a second later.
        """
        self.stdin.write(b"\n")
        self.stdin.flush()

    def ended(self) -> Ended:
        """Wait for the process to end, with its input open."""
        said = self.stdout.read().decode()
        status = self.process.wait(timeout=60)
        self._stderr.seek(0)
        return Ended(status, said, self._stderr.read().decode())


@contextmanager
def started(program: str, *, spawned: bool = False, **environment: str) -> Iterator[Started]:
    """Start a program and kill it at the end of the context.

    Args:
        program: The source text to run.
        spawned: Spawn the process instead of forking it.
        environment: Additional variables.
    """
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
    """True if a process is running; a zombie is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def forked_worker_of(parent: int) -> int | None:
    """Return a worker forked by a server of this process, or None if there is none."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended
            if comm.read_text(encoding="ascii") == "bsprobe-worker\n":
                pid = int(comm.parent.name)
                if parent_of(parent_of(pid)) == parent:
                    return pid
    return None


def parent_of(pid: int) -> int:
    """Return the current parent of a process.

    Raises:
        OSError: The process has ended.
    """
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(status.rpartition(")")[2].split()[1])


def becomes(happened: Callable[[], bool], *, within: float = 20) -> bool:
    """Wait for a condition up to a number of seconds; return whether it became true."""
    deadline = time.monotonic() + within
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
