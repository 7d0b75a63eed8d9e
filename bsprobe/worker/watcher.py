"""The watcher over a worker's process group: kills it once the worker or its parent is gone.

A program of its own that imports nothing of bsprobe. Its standard input is the worker's, of which
the parent holds the other end; it never reads. As a member of the group it keeps the group's number
from being given to another one, and dies with it.
"""

import os
import select
import signal
import sys
import time

LOOK_MILLISECONDS = 500
"""Between two looks after the worker."""
GRACE_SECONDS = 1.0
"""For a worker to end by itself, as it does when its input ends."""


def watch(worker: int) -> None:
    """Wait until the worker or its parent is gone, then kill the group that the worker leads."""
    if os.getpgrp() != worker:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the worker gently must not end this first
    poll = select.poll()
    poll.register(0, 0)  # the end is reported unasked
    while os.getppid() == worker and not poll.poll(LOOK_MILLISECONDS):
        pass
    deadline = time.monotonic() + GRACE_SECONDS
    while os.getppid() == worker and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(worker, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
