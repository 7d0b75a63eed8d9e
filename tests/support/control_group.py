"""A memory control group in which the kernel kills processes."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bsprobe.worker.memory_watch import group_counter

FILL = "held = [bytearray(64 * 2**20) for _ in range(64)]"


class ControlGroup:
    """A control group."""

    def __init__(self, folder: Path) -> None:
        self._processes = folder / "cgroup.procs"

    def take(self, pid: int) -> None:
        """Put a process into the group."""
        self._processes.write_text(str(pid), encoding="ascii")

    def have_one_killed(self) -> None:
        """Fill the memory of the group with a process until the kernel kills it."""
        program = f"open({str(self._processes)!r}, 'w').write('0')\n{FILL}"
        done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
        assert done.returncode == -9


@contextmanager
def control_group(*, limit_bytes: int) -> Iterator[ControlGroup | None]:
    """Create a group below that of this process, with a memory limit; yield None if not possible.

    The group is removed at the end, after its last process has ended.
    """
    counter = group_counter(os.getpid())
    if counter is None:
        yield None
        return
    is_first_version = counter.name == "memory.oom_control"
    folder = counter.parent / f"bsprobe-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        name = "memory.limit_in_bytes" if is_first_version else "memory.max"
        (folder / name).write_text(str(limit_bytes), encoding="ascii")
    except OSError:  # version 2 without the memory controller for the groups below
        folder.rmdir()
        yield None
        return
    try:
        yield ControlGroup(folder)
    finally:
        folder.rmdir()
