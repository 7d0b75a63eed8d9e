"""Evidence that the kernel killed a process to free memory: its counters, and the process's peak.

systemd-oomd and earlyoom kill from user space and increase no counter, so such a death remains
unexplained.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from bsprobe.records.failures import KernelKill
from bsprobe.records.units import KIB

_FULL: Final = 0.8
"""Share of its limit that a process must have filled for the machine's counter to be evidence. Less
than 1, because the process allocates after the last sample of its peak."""
_EVENTS: Final = ("memory.events.local", "memory.events")
"""Counters of a group alone; older kernels have only the second, which adds the groups below."""
_ROOT: Final = Path("/")


class MemoryWatch:
    """Watches the memory of one process, from its parent.

    Args:
        pid: The process ID.
        limit_bytes: Memory that the process may fill beyond what it holds now. None takes the
            memory of the machine.
        root: The folder that holds /proc and the control groups.
    """

    def __init__(self, pid: int, *, limit_bytes: int | None, root: Path = _ROOT) -> None:
        self._proc = root / "proc"
        self._status = self._proc / str(pid) / "status"
        self._group = group_counter(pid, root)
        self._machine = root / "proc" / "vmstat"
        self._limit = _machine_bytes() if limit_bytes is None else limit_bytes
        self._resting = self._peak = _number(self._status, "VmRSS:") * KIB
        self._before = self._kills()

    def look(self, others: Sequence[int] = ()) -> None:
        """Sample the peak, which can be read only while the process runs.

        Args:
            others: Processes that it has started, whose peaks count too.
        """
        statuses = [self._status, *(self._proc / str(pid) / "status" for pid in others)]
        self._peak = max(self._peak, *(_number(each, "VmHWM:") * KIB for each in statuses))

    def evidence(self) -> KernelKill | None:
        """Return evidence that the kernel has killed the process since the watch began, or None."""
        (group, machine), (group_before, machine_before) = self._kills(), self._before
        if group > group_before:
            return KernelKill.OWN_GROUP
        if machine > machine_before and self._peak - self._resting >= _FULL * self._limit:
            return KernelKill.MACHINE
        return None

    def _kills(self) -> tuple[int, int]:
        """Count the processes killed to free memory, in the control group and on the machine."""
        return _number(self._group, "oom_kill"), _number(self._machine, "oom_kill")


def group_counter(pid: int, root: Path = _ROOT) -> Path | None:
    """Find the file that counts the kills in the memory control group of a process.

    Args:
        pid: The process ID.
        root: As of `MemoryWatch`.

    Source: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. Version 2 counts kills
    in the nearest group, from the process upwards, for which the memory controller is enabled.
    """
    groups = [line.split(":", 2) for line in _lines(root / "proc" / str(pid) / "cgroup")]
    for version, names in ((1, ("memory.oom_control",)), (2, _EVENTS)):
        for _, controllers, path in groups:
            if ("memory" in controllers.split(",")) if version == 1 else not controllers:
                folders = _folders(PurePosixPath(path), version, root)
                files = (folder / name for folder in folders for name in names)
                return next((file for file in files if file.is_file()), None)
    return None


def _folders(group: PurePosixPath, version: int, root: Path) -> Iterator[Path]:
    """Yield the folder of a control group, then its parents up to the mount point.

    Source: proc_pid_mountinfo(5). A container may see the path of its group on the host while the
    group itself is mounted.
    """
    for line in _lines(root / "proc" / "self" / "mountinfo"):
        fields = line.split()
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        if kind != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and "memory" not in options.split(","):
            continue
        mount = root / fields[4].lstrip("/")
        is_below = group.is_relative_to(fields[3]) and ".." not in group.parts
        folder = mount / group.relative_to(fields[3]) if is_below else mount
        yield folder
        yield from (each for each in folder.parents if each.is_relative_to(mount))


def _number(path: Path | None, name: str) -> int:
    """Return the number after a name in a file, or 0."""
    for line in () if path is None else _lines(path):
        found = line.split()
        if found and found[0] == name:
            return int(found[1])
    return 0


def _lines(path: Path) -> Iterator[str]:
    with suppress(OSError):  # another system or kernel, or the process is gone
        yield from path.read_text(encoding="utf-8").splitlines()


def _machine_bytes() -> int:
    with suppress(AttributeError, ValueError, OSError):  # not on this system
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
