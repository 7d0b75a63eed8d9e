"""The fork servers of this process, and the processes that they fork, from the parent's side.

A server (`zygote.py`) has read, when it was started, what libraries read as they are loaded: some
environment variables, the cores it may use, the limits of the process. Workers that must find other
values there are forked by another server.
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
"""Beginnings of the names of variables that are read when Python starts and libraries are loaded.
Those of CUDA are not among them: its driver reads them when a worker opens its device."""
_MOST_SERVERS: Final = 2
_READY_SECONDS: Final = 300.0
"""For importing torch; a cold file cache on a network disk is slow."""
_FORK_SECONDS: Final = 60.0

_Key = tuple[object, ...]


class ForkedProcess:
    """A process that a server has forked; as much of `subprocess.Popen` as a worker's parent uses.

    Args:
        pid: Its number.
        stdin: To write to.
        stdout: To read from.
        status: The status pipe, from which the first line has been read.
        exit_status: How it ended, where that line says so.
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
        """Its exit status, as `Popen` has it; None while it lives."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It lives on.
        """
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def kill(self) -> None:
        """Kill it."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _ended_within(self, timeout: float | None) -> int | None:
        if self._exit_status is None and _can_be_read(self._status, timeout):
            # A server that was killed says nothing, and the kernel kills its children.
            said = self._status.readline().split()
            self._exit_status = int(said[1]) if said else -signal.SIGKILL
            self._status.close()
        return self._exit_status


class Server:
    """One server.

    Args:
        environment: The variables that it, and the libraries that it loads, read.
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
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        """True where none of its children lives."""
        self._children = [child for child in self._children if child.poll() is None]
        return not self._children

    def becomes_ready(self) -> bool:
        """Wait until it has imported what it should; False where it cannot."""
        try:
            # The byte is left where it is: an interruption cannot lose it.
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
        """Have it fork a process, in a session of its own, in the folder where this one is.

        Args:
            module: The module to run.
            environment: All variables of the process.
            imports: What the server is to import before, for this process and later ones.
            stderr: Where the process writes what is wrong.

        Returns:
            The process; None where the server is gone.
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
        """Let go of it, where this process is a fork of the one that started it."""
        self._socket.close()

    def end(self) -> None:
        """End it, and whatever is left of its children."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, request: bytes, descriptors: list[int]) -> None:
        length = len(request).to_bytes(LENGTH_BYTES, "big")
        socket.send_fds(self._socket, [length], descriptors)
        self._socket.sendall(request)


class Servers:
    """The servers of one process, by what they have read when they were started.

    One that fails is not replaced: from then on there is none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[_Key, Server] = {}
        self._has_failed = False

    def find(self, environment: Mapping[str, str]) -> Server | None:
        """The server for processes with these variables, started where it is not there yet.

        Takes the seconds of its imports then, and can be interrupted. None where there is none.
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
                self._known[key] = server  # the last one is the one used last
        except OSError:  # no memory, no processes: whoever spawns will see it and say so
            return None
        if server.becomes_ready():
            return server
        self.give_up(server)
        return None

    def give_up(self, server: Server) -> None:
        """Do without servers from now on, because of one that does not answer."""
        with self._lock:
            # Another thread may have ended it to make room, which is no failure.
            self._has_failed |= server in self._known.values()
        if self._has_failed:
            self.end()

    def end(self) -> None:
        """End all servers; whoever asks again starts new ones."""
        with self._lock:
            while self._known:
                self._known.popitem()[1].end()

    def forget(self) -> None:
        """Let go of all servers, where this process is a fork of the one that started them."""
        for server in self._known.values():
            server.forget()
        self._lock, self._known = threading.Lock(), {}

    def _make_room(self) -> None:
        idle = [key for key, server in self._known.items() if server.is_idle]
        if len(self._known) >= _MOST_SERVERS and idle:
            self._known.pop(idle[0]).end()


SERVERS: Final = Servers()
"""Those of this process. They are shared by all that it runs: to start one takes seconds."""
atexit.register(SERVERS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVERS.forget)


def _at_load(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that decide which server serves; relative paths mean another folder there."""
    found = {name: each for name, each in environment.items() if name.startswith(_READ_AT_LOAD)}
    if path := found.get("PYTHONPATH"):
        absolute = map(os.path.abspath, path.split(os.pathsep))
        found["PYTHONPATH"] = os.pathsep.join(absolute)
    return found


def _inherited() -> _Key:
    """The cores and limits that a process has from its parent, and that libraries look at."""
    import resource  # noqa: PLC0415 - as servers, not everywhere

    limits = (number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
    return frozenset(os.sched_getaffinity(0)), *map(resource.getrlimit, sorted(limits))


def _pipe(mode: str, undo: ExitStack, *, buffering: int = -1) -> tuple[int, IO[bytes]]:
    """A pipe: the other process's end, and ours, which the stack closes."""
    read, write = os.pipe()
    its, ours = (read, write) if mode == "wb" else (write, read)
    return its, undo.enter_context(closing(os.fdopen(ours, mode, buffering)))


def _can_be_read(file: IO[bytes] | socket.socket, timeout: float | None) -> bool:
    """Wait so many seconds for something to read, be it the end; says whether it came."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))
