"""The tie of a process to the one that started it: it ends with its parent, whatever it is doing.

A worker that waits in a kernel without releasing Python's lock cannot see its input end, and what a
network starts by itself hears nothing of the worker's parent at all. So the kernel kills the worker
with its parent, and a watcher in the worker's process group (`watcher.py`) kills the group.
Processes that begin a session of their own (`setsid`) are beyond both.

As a program it ties itself, then runs the module that its argument names: nothing slow has been
imported by then.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Final

PARENT: Final = "BSPROBE_PARENT"
"""The variable with the number of the process that starts another one; empty for none."""
_WATCHER: Final = str(Path(__file__).with_name("watcher.py"))
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def parent_variable() -> dict[str, str]:
    """The variable that ties a process to this one.

    The kernel kills with the thread that starts a process, not with its process: prctl(2). From a
    thread that may end before, the process is left to its watcher.
    """
    is_lasting = threading.current_thread() is threading.main_thread()
    return {PARENT: str(os.getpid()) if is_lasting else ""}


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; end it now if that is gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def end_with_parent() -> None:
    """As `end_with`, where the variable names the parent; it is taken away."""
    if parent := os.environ.pop(PARENT, ""):
        end_with(int(parent))


def watch_group() -> None:
    """Start the watcher over the process group that this process leads, and over its input."""
    if sys.platform == "win32" or os.getpgrp() != os.getpid():
        return
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    # Isolated and without site packages, so that it is there at once.
    words = (sys.executable, "-I", "-S", _WATCHER, str(os.getpid()))
    os.posix_spawn(sys.executable, words, os.environ, file_actions=quiet)


def main() -> None:
    """Tie this process, then run the module that is asked for."""
    end_with_parent()
    watch_group()
    module = sys.argv.pop(1)
    sys.orig_argv = [sys.executable, "-m", module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
