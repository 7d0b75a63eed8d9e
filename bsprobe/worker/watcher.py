"""The watcher of a worker's process group: kills it once the worker or its parent is gone.

A separate program that imports nothing of bsprobe. It shares the worker's standard input, whose
other end the parent holds, but never reads from it. As a member of the group it prevents the reuse
of the group's ID, and is killed with the group.
"""

import contextlib
import os
import select
import signal
import sys
import time

LOOK_MILLISECONDS = 500
"""Interval between two checks of the worker."""
GRACE_SECONDS = 1.0
"""Time for the worker to exit by itself at the end of its input."""


def watch(worker: int, mark: bytes) -> None:
    """Wait until the worker or its parent is gone, then kill the worker's process group.

    Args:
        worker: The process ID of the worker.
        mark: Text in the environment of processes to kill in other groups; empty for none.
    """
    if os.getpgrp() != worker:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the watcher must outlive the worker
    poll = select.poll()
    poll.register(0, 0)  # the end of the input is always reported
    while os.getppid() == worker and not poll.poll(LOOK_MILLISECONDS):
        pass
    deadline = time.monotonic() + GRACE_SECONDS
    while os.getppid() == worker and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in marked(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    os.killpg(worker, signal.SIGKILL)


def marked(mark: bytes) -> "list[int]":
    """Return the processes that have a text in their environment, such as torchrun's own sessions.

    Args:
        mark: The text; empty for no process.
    """
    found = []
    for name in os.listdir("/proc") if mark and os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208 - pathlib is slow to import
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environment:  # noqa: PTH123 - as above
            if name.isdecimal() and mark in environment.read():
                found.append(int(name))
    return found


if __name__ == "__main__":
    watch(int(sys.argv[1]), " ".join(sys.argv[2:]).encode())
