"""Start of worker processes: forked by a server that has imported PyTorch, or spawned."""

import os
import site
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from bsprobe.worker.forking import SERVERS, Server
from bsprobe.worker.tether import parent_variable

SPAWN: Final = "BSPROBE_SPAWN"
"""Environment variable; if it is 1, every worker is spawned."""
MODULES: Final = ("bsprobe.worker.child", "bsprobe.study.child")
"""The modules that a server can run; every other program is spawned."""
TETHER: Final = "bsprobe.worker.tether"
WORKER_ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For the CPU device; set for all devices, because glibc reads it once, at process start."""


class ChildProcess(Protocol):
    """The part of `subprocess.Popen` that a worker's parent uses."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raise `subprocess.TimeoutExpired` if the process still runs."""

    def kill(self) -> None:
        """Kill the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """The parameters of a process to start."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    imports: tuple[str, ...]
    server: Server | None
    """The server that forks it, or None to spawn it."""

    def start(self, stderr: IO[bytes]) -> ChildProcess:
        """Start the process, with pipes for its input and output.

        It has its own session: Ctrl-C reaches only the parent, and all processes that it starts can
        be killed with it.

        Args:
            stderr: File for the standard error of the process.
        """
        if self.server is not None:
            forked = self.server.fork(
                self.command[-1], self.environment, imports=self.imports, stderr=stderr
            )
            if forked is not None:
                return forked
            SERVERS.give_up(self.server)
        return subprocess.Popen(
            _tethered(self.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**self.environment, **parent_variable()},
            start_new_session=True,
        )


def prepared(
    command: tuple[str, ...], environment: Mapping[str, str], *, imports: tuple[str, ...] = ()
) -> Birth:
    """Prepare the start of a worker; if it needs a new server, this takes seconds.

    Args:
        command: The program.
        environment: Variables to set in addition to those of this process.
        imports: Slow modules that only this worker needs.
    """
    variables = {**own_environment(), **environment}
    can_be_forked = sys.platform == "linux" and _is_worker(command) and variables.get(SPAWN) != "1"
    server = SERVERS.find(variables) if can_be_forked else None
    return Birth(command=command, environment=variables, imports=imports, server=server)


def _is_worker(command: tuple[str, ...]) -> bool:
    return command in {(sys.executable, "-m", module) for module in MODULES}


def _tethered(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that ties a worker to this process before it does anything else."""
    return (*command[:2], TETHER, command[2]) if _is_worker(command) else command


def own_environment() -> dict[str, str]:
    """Return the environment of this process, with bsprobe importable as it is here."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [os.environ.get("PYTHONPATH", "")]
    if package_root not in site.getsitepackages():
        paths.insert(0, package_root)
    return {**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
