"""Starts worker processes: forked by a server that has imported PyTorch, else spawned."""

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
"""The variable that, set to 1, has every worker spawned."""
MODULES: Final = ("bsprobe.worker.child", "bsprobe.study.child")
"""The modules that a server runs; every other program is spawned."""
TETHER: Final = "bsprobe.worker.tether"
_WORKER_ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For the CPU device; glibc reads it once, when the process starts, so it is set for all."""


class ChildProcess(Protocol):
    """The part of `subprocess.Popen` that a worker's parent uses."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Its exit status; None while it lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `subprocess.TimeoutExpired` where it lives on."""

    def kill(self) -> None:
        """Kill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Everything that a process is started with."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    imports: tuple[str, ...]
    server: Server | None
    """That forks it; None: it is spawned."""

    def start(self, stderr: IO[bytes]) -> ChildProcess:
        """Start it, with pipes for its input and output.

        It has a session of its own: Ctrl-C reaches the parent alone, and all that it starts can be
        killed with it.

        Args:
            stderr: Where it writes what is wrong.
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
    """Prepare the start of a worker; starts the server for it, in seconds, where there is none yet.

    Args:
        command: The program.
        environment: Variables that are set for it, beside those that are there.
        imports: Slow modules that it needs and others do not.
    """
    variables = {**_environment(), **environment}
    can_be_forked = sys.platform == "linux" and _is_worker(command) and variables.get(SPAWN) != "1"
    server = SERVERS.find(variables) if can_be_forked else None
    return Birth(command=command, environment=variables, imports=imports, server=server)


def _is_worker(command: tuple[str, ...]) -> bool:
    return command in {(sys.executable, "-m", module) for module in MODULES}


def _tethered(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with which a worker ties itself to this process first of all."""
    return (*command[:2], TETHER, command[2]) if _is_worker(command) else command


def _environment() -> dict[str, str]:
    """A worker's environment: ours, with the package importable as it is here."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [os.environ.get("PYTHONPATH", "")]
    if package_root not in site.getsitepackages():
        paths.insert(0, package_root)
    return {**os.environ, **_WORKER_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
