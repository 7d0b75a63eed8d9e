"""The fork server: a process that has imported PyTorch and forks a worker for each request.

`forking.py` starts it with one end of a socket pair; it serves the process that holds the other end
until that end is closed. A request is a length and as many bytes of JSON (`module`, `imports`,
`environment`), sent with file descriptors: the working directory, standard input, output and error,
and the status pipe of the new process. The new process writes its ID to the status pipe once it has
its own session. When it ends, the server writes the ID and the exit status, as in `Popen`; this is
the only line if the process is killed before it writes its ID.

The server runs no tensor operation (OpenMP's threads do not survive a fork, and a child would wait
for them for ever), makes no CUDA call (a driver initialised here does not work in a child) and runs
no user code. It has one Python thread. OpenBLAS, which numpy loads, ends and restarts its threads
in its own fork handlers.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsprobe.worker.tether import end_with, end_with_parent, watch_group

READY: Final = b"."
"""Sent when the imports are done."""
LENGTH_BYTES: Final = 4
"""Size of the length that precedes a request; the descriptors are sent with it."""
DESCRIPTORS: Final = 5
IMPORTS: Final = (
    "torch",
    "torch._dynamo",  # imported by the first optimizer step and by fake tensors
    "bsprobe.devices.cpu",
    "bsprobe.devices.cuda",
    "bsprobe.devices.fitting",
    "bsprobe.devices.simulated",
)
"""Modules that workers import. Their main modules are not included, because workers run them."""
_NAME: Final = "bsprobe-worker"
"""Name of a child in `top` and `ps -o comm`; its command line stays that of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    module: str
    imports: tuple[str, ...]
    environment: dict[str, str]
    folder: int
    streams: tuple[int, int, int]
    status: int


def serve(parent: socket.socket) -> str | None:
    """Fork a process for each request.

    Returns:
        None in the server, once the parent is gone; in a child the module to run.
    """
    server, children = os.getpid(), dict[int, int]()
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    parent.sendall(READY)
    while True:
        readable, _, _ = select.select([parent.fileno(), ended], [], [])
        if ended in readable:
            os.read(ended, select.PIPE_BUF)
            _report_the_dead(children)
        if parent.fileno() in readable:
            request = _receive(parent)
            if request is None:
                for pid in children:
                    with suppress(ProcessLookupError):  # it has just ended
                        os.killpg(pid, signal.SIGKILL)
                return None
            for name in request.imports:
                importlib.import_module(name)
            if (pid := _fork()) == 0:
                for descriptor in (parent.detach(), ended, wake, *children.values()):
                    os.close(descriptor)
                _become(request, server)
                return request.module
            children[pid] = request.status
            for descriptor in (request.folder, *request.streams):
                os.close(descriptor)


def _receive(parent: socket.socket) -> _Request | None:
    """Return the next request, or None once the parent is gone."""
    try:
        start, descriptors, _, _ = socket.recv_fds(parent, LENGTH_BYTES, DESCRIPTORS)
    except ConnectionResetError:  # the parent ended without reading
        return None
    with parent.makefile("rb") as stream:
        length = start + stream.read(LENGTH_BYTES - len(start))
        body = stream.read(int.from_bytes(length, "big"))
    if len(descriptors) < DESCRIPTORS or not body:
        return None
    folder, stdin, stdout, stderr, status = descriptors
    asked = json.loads(body)
    return _Request(
        module=asked["module"],
        imports=tuple(asked["imports"]),
        environment=asked["environment"],
        folder=folder,
        streams=(stdin, stdout, stderr),
        status=status,
    )


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of OpenBLAS's threads, which handle the fork (see above).
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        return os.fork()


def _report_the_dead(children: dict[int, int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            descriptor = children.pop(pid)
            with suppress(OSError):  # the parent has closed the pipe
                os.write(descriptor, b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))
            os.close(descriptor)


def _become(request: _Request, server: int) -> None:
    """Set up this forked process as if it had been started by `python -m`."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    end_with(server)
    for number, descriptor in enumerate(request.streams):
        os.dup2(descriptor, number)
    os.fchdir(request.folder)
    for descriptor in (request.folder, *request.streams):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    if not sys.flags.safe_path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    sys.argv[1:] = []
    sys.orig_argv = [sys.executable, "-m", request.module]
    gc.enable()
    importlib.invalidate_caches()
    tempfile.tempdir = None  # TMPDIR may differ
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python reseeds only its own generator after a fork
    Path("/proc/self/comm").write_text(_NAME, encoding="ascii")
    os.write(request.status, b"%d\n" % os.getpid())
    os.close(request.status)


def main() -> None:
    """Serve the socket whose descriptor is the argument; in a child run the requested module."""
    end_with_parent()
    if not sys.flags.safe_path:
        del sys.path[0]  # the server's own folder, which `python -m` puts there
    gc.disable()  # imports create many objects and little garbage
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would write to shared pages and so copy them
    module = serve(socket.socket(fileno=int(sys.argv[1])))
    if module is None:
        os._exit(0)  # without the exit handlers of libraries
    watch_group()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
