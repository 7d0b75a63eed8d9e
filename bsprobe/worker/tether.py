"""Ties a process to its parent: it is killed when the parent ends.

A worker that blocks in native code without releasing the GIL cannot notice the end of its input,
and processes that a network starts do not know the worker's parent. So Linux kills the worker with
its parent, and a watcher in the worker's process group (`watcher.py`) kills the group. Processes
that start their own session (`setsid`) are not killed.

Run as a program, this ties itself before any slow import, then runs the module that its argument
names.
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
"""Environment variable with the process ID of the parent; empty for none."""
WATCHER: Final = str(Path(__file__).with_name("watcher.py"))
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def parent_variable() -> dict[str, str]:
    """Return the variable that ties a process to this one.

    Linux kills the process when the thread that started it ends, not when the parent process ends
    (prctl(2)). So only the main thread ties a process; from other threads only the watcher kills
    it.
    """
    is_lasting = threading.current_thread() is threading.main_thread()
    return {PARENT: str(os.getpid()) if is_lasting else ""}


def end_with(parent: int) -> None:
    """Let Linux kill this process when its parent ends; exit if the parent has ended."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)


def end_with_parent() -> None:
    """Call `end_with` with the parent that the variable names, and remove the variable."""
    if parent := os.environ.pop(PARENT, ""):
        end_with(int(parent))


def watch_group(mark: str = "") -> None:
    """Start the watcher of the process group that this process leads, and of its input.

    Args:
        mark: Text in the environment of processes that are to be killed with the group, whatever
            group they are in; empty for none.
    """
    if sys.platform == "win32" or os.getpgrp() != os.getpid():
        return
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    # Isolated and without site packages, for a fast start.
    words = (sys.executable, "-I", "-S", WATCHER, str(os.getpid()), mark)
    os.posix_spawn(sys.executable, words, os.environ, file_actions=quiet)


def main() -> None:
    """Tie this process, then run the module that the argument names."""
    end_with_parent()
    watch_group()
    module = sys.argv.pop(1)
    sys.orig_argv = [sys.executable, "-m", module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
