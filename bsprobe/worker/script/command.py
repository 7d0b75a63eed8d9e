"""One run of a user's command: its process group, its output, its end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bsprobe.records.units import KIB
from bsprobe.worker.interruption import undisturbed
from bsprobe.worker.script.launcher import Order
from bsprobe.worker.spawning import own_environment
from bsprobe.worker.tether import WATCHER, parent_variable
from bsprobe.worker.watcher import marked

LAUNCHER: Final = (sys.executable, "-m", "bsprobe.worker.script.launcher")
TERM_SECONDS: Final = 10.0
"""Time for a command to end after SIGTERM; then it is killed."""
_LOOK_SECONDS: Final = 0.05
_TAIL_BYTES: Final = 64 * KIB
_MOST_LINES: Final = 200
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours and control characters, without tab and newline."""


class Command:
    """A user's command that runs as the leader of its own process group.

    Args:
        words: The command.
        environment: All its variables.
        data_limit_bytes: The soft limit of the data of each process; None for none.
        mark: Text in its environment that no other process has.
        log: The file for its output.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        data_limit_bytes: int | None,
        mark: str,
        log: Path,
    ) -> None:
        order = Order(
            words=list(words),
            environment=dict(environment),
            data_limit_bytes=data_limit_bytes,
            mark=mark,
        )
        self._mark = mark.encode()
        self._log = log
        with undisturbed(), log.open("wb") as output:
            self._process = subprocess.Popen(
                LAUNCHER,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**own_environment(), **parent_variable()},
                start_new_session=True,
            )
        self.pid = self._process.pid
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(OSError):  # it died, which its exit status shows
            self._process.stdin.write(order.encode())
            self._process.stdin.flush()

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs."""
        return self._process.poll()

    @property
    def has_begun(self) -> bool:
        """True once the launcher has become the command."""
        with suppress(OSError):
            return not _is_launcher(_words_of(self.pid))
        return True

    def processes(self) -> list[int]:
        """Return the processes of the trial, in whatever group they are.

        Those whose environment was cleared are known by their session.
        """
        return sorted({*marked(self._mark), *_of_session(self.pid)})

    def stop(self) -> None:
        """Send SIGTERM to the group; kill what is left after ten seconds."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + TERM_SECONDS
        while time.monotonic() < deadline and (self.poll() is None or self.processes()):
            time.sleep(_LOOK_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill all processes of the trial."""
        self._signal(signal.SIGKILL)
        for pid in self.processes():  # those of other sessions, such as torchrun's
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(_LOOK_SECONDS)
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def output(self) -> str:
        """Return the last lines of the output, without colours and progress bars."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        return "\n".join([_CONTROL.sub("", line).rstrip() for line in lines][-_MOST_LINES:]).strip()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _of_session(leader: int) -> list[int]:
    """The living processes of a session, without the watcher and the launcher."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z" and not _is_ours(int(folder.name)):
                found.append(int(folder.name))
    return found


def _is_ours(pid: int) -> bool:
    words = _words_of(pid)
    return WATCHER.encode() in words or _is_launcher(words)


def _is_launcher(words: Sequence[bytes]) -> bool:
    return LAUNCHER[-1].encode() in words


def _words_of(pid: int) -> list[bytes]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
