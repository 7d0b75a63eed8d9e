"""The fork servers of this process and the processes that they fork, from the parent's side.

Libraries read some environment variables, the CPU affinity and the process limits when they are
loaded. A server (`zygote.py`) has loaded them already, so workers that need other values are forked
by another server.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from typing import IO, Final

from bsprobe.worker.interruption import undisturbed
from bsprobe.worker.tether import parent_variable
from bsprobe.worker.zygote import LENGTH_BYTES

PROGRAM: Final = "bsprobe.worker.zygote"
_READ_AT_LOAD: Final = (
    *("ATEN_", "BLIS_", "CUBLAS_", "CUDNN_", "DNNL_", "GLIBC_", "GOMP_", "GOTO_", "HOME", "KMP_"),
    *("LANG", "LC_", "LD_", "MALLOC_", "MKL_", "NPY_", "NUMPY_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("PYTHON", "PYTORCH_", "TMPDIR", "TORCH", "TZ"),
)
"""Prefixes of variables that are read when Python starts and libraries are loaded. CUDA's are not
included: its driver reads them when a worker opens its device."""
_MOST_SERVERS: Final = 2
_READY_SECONDS: Final = 300.0
"""Time to import torch, which is slow from a network disk with a cold cache."""
_FORK_SECONDS: Final = 60.0

_Key = tuple[object, ...]


class ForkedProcess:
    """A forked process, with the part of `subprocess.Popen` that a worker's parent uses.

    Args:
        pid: The process ID.
        stdin: The pipe to its standard input.
        stdout: The pipe from its standard output.
        status: The status pipe; its first line has been read.
        exit_status: The exit status if the first line holds one, else None.
    """

    def __init__(
        self,
        *,
        pid: int,
        stdin: IO[bytes],
        stdout: IO[bytes],
        status: IO[bytes],
        exit_status: int | None,
    ) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._status = status
        self._exit_status = exit_status

    def poll(self) -> int | None:
        """Return the exit status as `Popen` does, or None while the process runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit status.

        Raises:
            subprocess.TimeoutExpired: The process still runs.
        """
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def kill(self) -> None:
        """Kill the process."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _ended_within(self, timeout: float | None) -> int | None:
        if self._exit_status is None and _can_be_read(self._status, timeout):
            # A killed server writes no status, and the kernel kills its children.
            said = self._status.readline().split()
            self._exit_status = int(said[1]) if said else -signal.SIGKILL
            self._status.close()
        return self._exit_status


class Server:
    """A fork server.

    Args:
        environment: The variables of the server.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, its = socket.socketpair()
        self._asking = threading.Lock()
        self._children: list[ForkedProcess] = []
        with its:
            self._process = subprocess.Popen(
                (sys.executable, "-m", PROGRAM, str(its.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**environment, **parent_variable()},
                cwd="/",
                pass_fds=(its.fileno(),),
                start_new_session=True,  # Ctrl-C reaches only the parent
            )

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        """True if no child of the server runs."""
        self._children = [child for child in self._children if child.poll() is None]
        return not self._children

    def becomes_ready(self) -> bool:
        """Wait for the imports of the server; return False if they fail."""
        try:
            # The byte is not consumed, so an interruption cannot lose it.
            return _can_be_read(self._socket, _READY_SECONDS) and bool(
                self._socket.recv(1, socket.MSG_PEEK)
            )
        except OSError:
            return False

    def fork(
        self,
        module: str,
        environment: Mapping[str, str],
        *,
        imports: tuple[str, ...],
        stderr: IO[bytes],
    ) -> ForkedProcess | None:
        """Fork a process in its own session, in the working directory of this process.

        Args:
            module: The module to run.
            environment: All variables of the process.
            imports: Modules that the server imports first, for this process and later ones.
            stderr: File for the standard error of the process.

        Returns:
            The process, or None if the server is gone.
        """
        asked = {"module": module, "imports": imports, "environment": dict(environment)}
        with self._asking, ExitStack() as undo:
            its_stdin, stdin = _pipe("wb", undo)
            its_stdout, stdout = _pipe("rb", undo)
            its_status, status = _pipe("rb", undo, buffering=0)
            folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
            its_ends = [folder, its_stdin, its_stdout, stderr.fileno(), its_status]
            try:
                self._ask(json.dumps(asked).encode(), its_ends)
            except OSError:
                return None
            finally:
                for descriptor in (folder, its_stdin, its_stdout, its_status):
                    os.close(descriptor)
            said = status.readline().split() if _can_be_read(status, _FORK_SECONDS) else []
            if not said:
                return None
            undo.pop_all()
            pid, ended = int(said[0]), int(said[1]) if len(said) > 1 else None
            child = ForkedProcess(
                pid=pid, stdin=stdin, stdout=stdout, status=status, exit_status=ended
            )
            self._children.append(child)
            return child

    def forget(self) -> None:
        """Close the connection, in a fork of the process that started the server."""
        self._socket.close()

    def end(self) -> None:
        """Kill the server, and with it its remaining children."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, request: bytes, descriptors: list[int]) -> None:
        length = len(request).to_bytes(LENGTH_BYTES, "big")
        socket.send_fds(self._socket, [length], descriptors)
        self._socket.sendall(request)


class Servers:
    """The servers of one process, by the values that they read at their start.

    After one server has failed no server is used any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[_Key, Server] = {}
        self._has_failed = False

    def find(self, environment: Mapping[str, str]) -> Server | None:
        """Return the server for processes with these variables, starting it if needed.

        A start takes seconds and can be interrupted. Returns None if no server can be used.
        """
        variables = _at_load(environment)
        key = (*sorted(variables.items()), *_inherited())
        try:
            with self._lock, undisturbed():
                if self._has_failed:
                    return None
                server = self._known.pop(key, None)
                if server is None:
                    self._make_room()
                    server = Server({**environment, **variables})
                self._known[key] = server  # ordered by last use
        except OSError:  # no memory or no processes left, which the spawn will report
            return None
        if server.becomes_ready():
            return server
        self.give_up(server)
        return None

    def give_up(self, server: Server) -> None:
        """Use no more servers, because this one does not answer."""
        with self._lock:
            # It is no failure if another thread has ended the server to make room.
            self._has_failed |= server in self._known.values()
        if self._has_failed:
            self.end()

    def end(self) -> None:
        """End all servers."""
        with self._lock:
            while self._known:
                self._known.popitem()[1].end()

    def forget(self) -> None:
        """Drop all servers, in a fork of the process that started them."""
        for server in self._known.values():
            server.forget()
        self._lock, self._known = threading.Lock(), {}

    def _make_room(self) -> None:
        idle = [key for key, server in self._known.items() if server.is_idle]
        if len(self._known) >= _MOST_SERVERS and idle:
            self._known.pop(idle[0]).end()


SERVERS: Final = Servers()
"""The servers of this process, shared because a start takes seconds."""
atexit.register(SERVERS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVERS.forget)


def _at_load(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that choose the server.

    Relative paths are made absolute, because a server has another working directory.
    """
    found = {name: each for name, each in environment.items() if name.startswith(_READ_AT_LOAD)}
    if path := found.get("PYTHONPATH"):
        absolute = map(os.path.abspath, path.split(os.pathsep))
        found["PYTHONPATH"] = os.pathsep.join(absolute)
    return found


def _inherited() -> _Key:
    """Return the CPU affinity and limits that a child inherits and that libraries read."""
    import resource  # noqa: PLC0415 - absent on Windows, where no server is used

    limits = (number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
    return frozenset(os.sched_getaffinity(0)), *map(resource.getrlimit, sorted(limits))


def _pipe(mode: str, undo: ExitStack, *, buffering: int = -1) -> tuple[int, IO[bytes]]:
    """Open a pipe; return the child's end, and the parent's, which the stack closes."""
    read, write = os.pipe()
    its, ours = (read, write) if mode == "wb" else (write, read)
    return its, undo.enter_context(closing(os.fdopen(ours, mode, buffering)))


def _can_be_read(file: IO[bytes] | socket.socket, timeout: float | None) -> bool:
    """Wait up to `timeout` seconds for data or the end of a file; return whether it came."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))
