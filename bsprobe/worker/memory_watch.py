"""Evidence of the kernel that it killed a process for want of memory: its counters, and the peak.

systemd-oomd and earlyoom kill from outside the kernel and move no counter: such a death remains
unexplained.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from bsprobe.records.failures import KernelKill
from bsprobe.records.units import KIB

_FULL: Final = 0.8
"""Share of its limit that a process has filled if the end of the memory was its doing. Less than
all of it, for between the last look and the end it goes on allocating."""
_EVENTS: Final = ("memory.events.local", "memory.events")
"""The counters of a group alone, and those of the groups below it as well, in older kernels."""
_ROOT: Final = Path("/")


class MemoryWatch:
    """Watches the memory of one process, from its parent.

    Args:
        pid: Its number.
        limit_bytes: The memory that it may fill beyond what it holds now; None: the machine's.
        root: The folder that /proc and the control groups are found below.
    """

    def __init__(self, pid: int, *, limit_bytes: int | None, root: Path = _ROOT) -> None:
        self._status = root / "proc" / str(pid) / "status"
        self._group = group_counter(pid, root)
        self._machine = root / "proc" / "vmstat"
        self._limit = _machine_bytes() if limit_bytes is None else limit_bytes
        self._resting = self._peak = self._field("VmRSS")
        self._before = self._kills()

    def look(self) -> None:
        """Take the peak while the process lives: with it goes its record."""
        self._peak = max(self._peak, self._field("VmHWM"))

    def evidence(self) -> KernelKill | None:
        """The evidence that the kernel has killed the process since the watch began."""
        (group, machine), (group_before, machine_before) = self._kills(), self._before
        if group > group_before:
            return KernelKill.OWN_GROUP
        if machine > machine_before and self._peak - self._resting >= _FULL * self._limit:
            return KernelKill.MACHINE
        return None

    def _kills(self) -> tuple[int, int]:
        """Processes killed for want of memory: of the control group, and of the machine."""
        return _number(self._group, "oom_kill"), _number(self._machine, "oom_kill")

    def _field(self, name: str) -> int:
        """A field of the process's status in bytes; 0 where there is none any more."""
        return _number(self._status, f"{name}:") * KIB


def group_counter(pid: int, root: Path = _ROOT) -> Path | None:
    """The file that counts the kills in a process's own memory control group, None without one.

    Args:
        pid: The number of the process.
        root: As of `MemoryWatch`.

    Source: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. Version 2 counts them
    in the nearest group from the process upwards for which the memory controller is enabled.
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
    """The folder of a control group, then those above it, up to where they are mounted.

    Source: proc_pid_mountinfo(5). A container may see the path of its group on the host, and have
    the group itself mounted.
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
    """The number beside a name in a file; 0 where there is none."""
    for line in () if path is None else _lines(path):
        found = line.split()
        if found and found[0] == name:
            return int(found[1])
    return 0


def _lines(path: Path) -> Iterator[str]:
    with suppress(OSError):  # another kernel, another system, or the process is gone
        yield from path.read_text(encoding="utf-8").splitlines()


def _machine_bytes() -> int:
    with suppress(AttributeError, ValueError, OSError):  # another system
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
