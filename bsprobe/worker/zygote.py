"""The fork server: a process that has imported PyTorch and forks a worker for each request.

It is started by `spawning.py` with one end of a socket pair, and serves whoever holds the other
end until that is closed. A request is a length and as many bytes of JSON (`module`, `imports`,
`environment`), sent together with file descriptors: the working directory, standard input, output
and error, and the status pipe of the process that is asked for. Down this pipe the new process
writes its number once it has a session of its own, and the server the number and how it ended, as
`Popen` has it: the one line that comes where the process is killed before it can write its own.

The server itself runs no tensor operation (OpenMP's threads do not survive a fork: a matrix product
here, and a child waits for them for ever), asks CUDA nothing (a driver that was initialised here
refuses to work in a child) and runs no code of the user's. It has one thread of Python. That of
OpenBLAS, which numpy brings, are ended and started again by OpenBLAS's own fork handlers.
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
"""Sent once everything is imported."""
LENGTH_BYTES: Final = 4
"""Of the number that precedes a request, its descriptors beside it."""
DESCRIPTORS: Final = 5
IMPORTS: Final = (
    "torch",
    "torch._dynamo",  # the first step of an optimizer imports it, and so does a fake tensor
    "bsprobe.devices.cpu",
    "bsprobe.devices.cuda",
    "bsprobe.devices.fitting",
    "bsprobe.devices.simulated",
)
"""Modules that workers import anyway; those with which they begin are left to them, to be run."""
_NAME: Final = "bsprobe-worker"
"""Of a child, as `top` and `ps -o comm` show it: its command line stays that of the server."""


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
        In the server None, once the parent is gone; in each child the module that it is to run.
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
                    with suppress(ProcessLookupError):  # it was about to be reported
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
    """The next request; None once the parent is gone."""
    try:
        start, descriptors, _, _ = socket.recv_fds(parent, LENGTH_BYTES, DESCRIPTORS)
    except ConnectionResetError:  # it never read what it was sent
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
        # OpenBLAS's threads (see above) are all that Python 3.12 counts here.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        return os.fork()


def _report_the_dead(children: dict[int, int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            descriptor = children.pop(pid)
            with suppress(OSError):  # nobody waits for it any more
                os.write(descriptor, b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))
            os.close(descriptor)


def _become(request: _Request, server: int) -> None:
    """Make this process, just forked, what it were if it had been started by itself."""
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
    tempfile.tempdir = None  # TMPDIR may be another one
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does it by itself
    Path("/proc/self/comm").write_text(_NAME, encoding="ascii")
    os.write(request.status, b"%d\n" % os.getpid())
    os.close(request.status)


def main() -> None:
    """Serve the socket whose number is the argument; in a child run the module that is wanted."""
    end_with_parent()
    if not sys.flags.safe_path:
        del sys.path[0]  # the server's own folder, which `python -m` puts there
    gc.disable()  # imports make much and leave nothing behind
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would write to, and so copy, pages that are shared
    module = serve(socket.socket(fileno=int(sys.argv[1])))
    if module is None:
        os._exit(0)  # nothing is left to be done, not even what libraries do at exit
    watch_group()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
