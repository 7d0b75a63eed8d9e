"""Processes started by torch's launcher: bsprobe itself, or with stubbed workers."""

import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.commands import ROOT, popen

_MARK = "BSPROBE_TEST_MARK"


class Started:
    """A process with all its descendants."""

    def __init__(
        self, command: Sequence[str], cwd: Path, mark: str = "", **environment: str
    ) -> None:
        self.mark = mark or uuid.uuid4().hex
        variables = {"OMP_NUM_THREADS": "1", _MARK: self.mark, **environment}
        self.process = popen(*command, cwd=cwd, before_exec=None, **variables)

    def finish(self, timeout: float = 240) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def alive(self, *words: str) -> list[int]:
        """Return the processes with the mark and these words in their command lines.

        A killed process that still waits for the disk counts as dead.
        """
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:  # it has ended
                continue
            if marked and command != [""] and all(word in command for word in words):
                if is_killed(folder):
                    continue
                found.append(int(folder.name))
        return sorted(found)

    def described(self) -> list[str]:
        """Describe living processes for a failure message: number, state, parent and command."""
        found = []
        for pid in self.alive():
            folder = Path(f"/proc/{pid}")
            with suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(f"{pid} {state} of {parent}: {command}")
        return found

    def all_gone(self, within: float = 30) -> bool:
        """True if no process is left after some time."""
        deadline = time.monotonic() + within
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        return self.alive() == []


def is_killed(folder: Path) -> bool:
    """True if SIGKILL has reached a process, according to its folder in /proc."""
    with suppress(OSError):
        for line in (folder / "status").read_text(encoding="utf-8").splitlines():
            name, _, mask = line.partition(":\t")
            if name in ("SigPnd", "ShdPnd") and int(mask, 16) >> (signal.SIGKILL - 1) & 1:
                return True
    return False


def torchrun(*program: str, cwd: Path, **environment: str) -> Started:
    """Start `torchrun --nproc-per-node 2 PROGRAM`."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    return Started((*launcher, *program), cwd, **environment)


def stubbed(behaviour: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line with a worker without torch."""
    return (str(ROOT / "tests" / "support" / "stubbed_bsprobe.py"), behaviour, *arguments)


def by_hand(
    rank: int, port: int, *program: str, cwd: Path, mark: str, **environment: str
) -> Started:
    """Start one of two processes, as torchrun does on two machines, but without its store."""
    return Started(
        (sys.executable, *program),
        cwd,
        mark,
        TORCHELASTIC_RUN_ID="by-hand",
        TORCHELASTIC_USE_AGENT_STORE="False",
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK="0",
        LOCAL_WORLD_SIZE="1",
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        **environment,
    )


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
