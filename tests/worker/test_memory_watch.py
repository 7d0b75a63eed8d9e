"""The kernel's counters of killed processes, in both versions of control groups."""

from pathlib import Path

import pytest

from bsprobe.records.failures import KernelKill
from bsprobe.records.units import GIB, KIB, MIB
from bsprobe.worker.memory_watch import MemoryWatch

PID = 4711
MOUNTS = {
    "v1": "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
    "v2": "35 31 0:32 {root} /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    "hybrid": "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
}
GROUPS = {
    "v1": "5:pids:/\n4:cpu,memory:{group}\n0::/\n",
    "v2": "0::{group}\n",
    "hybrid": "4:memory:{group}\n0::/elsewhere\n",
}


class Machine:
    """The files of a machine, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def kills(self, path: str, count: int) -> None:
        more = "oom_kill_disable 0\nunder_oom 0\n" if path.endswith("control") else "oom 5\n"
        self.write(path, f"{more}oom_kill {count}\n")

    def kills_in_all(self, count: int) -> None:
        self.write("/proc/vmstat", f"pgfault 99\noom_kill {count}\nnr_free 3\n")

    def holds(self, resident: int, peak: int) -> None:
        text = f"Name:\tpython\nVmHWM:\t{peak // KIB} kB\nVmRSS:\t{resident // KIB} kB\n"
        self.write(f"/proc/{PID}/status", text)

    def runs(self, version: str, group: str, root: str = "/") -> None:
        self.write("/proc/self/mountinfo", MOUNTS[version].format(root=root))
        self.write(f"/proc/{PID}/cgroup", GROUPS[version].format(group=group))
        self.kills_in_all(0)
        self.holds(100 * MIB, 100 * MIB)

    def watch(self, limit: int | None = GIB) -> MemoryWatch:
        return MemoryWatch(PID, limit_bytes=limit, root=self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("version", "group", "root", "counter"),
    [
        ("v1", "/job", "/", f"{V1}/job/memory.oom_control"),
        ("v1", "/", "/", f"{V1}/memory.oom_control"),
        ("v1", "/docker/abc", "/docker/abc", f"{V1}/memory.oom_control"),  # as a container sees it
        ("hybrid", "/job", "/", f"{V1}/job/memory.oom_control"),
        ("v2", "/job", "/", f"{V2}/job/memory.events"),
        ("v2", "/job", "/", f"{V2}/job/memory.events.local"),
        ("v2", "/user/app", "/", f"{V2}/user/memory.events.local"),  # no controller for `app`
        ("v2", "/../..", "/", f"{V2}/memory.events.local"),  # outside of the cgroup namespace
        ("v2", "/docker/abc/x", "/docker/abc", f"{V2}/x/memory.events"),
    ],
)
def test_the_counter_of_the_processes_own_group_is_evidence(
    machine: Machine, version: str, group: str, root: str, counter: str
) -> None:
    machine.runs(version, group, root)
    machine.kills(counter, 3)
    watch = machine.watch()
    assert watch.evidence() is None
    machine.kills(counter, 4)
    assert watch.evidence() is KernelKill.OWN_GROUP


def test_the_counters_of_other_groups_are_no_evidence(machine: Machine) -> None:
    machine.runs("v2", "/job")
    others = (f"{V2}/memory.events", f"{V2}/other/memory.events", f"{V2}/job/below/memory.events")
    for counter in (f"{V2}/job/memory.events.local", *others):
        machine.kills(counter, 0)
    watch = machine.watch()
    for counter in others:
        machine.kills(counter, 1)
    assert watch.evidence() is None


@pytest.mark.parametrize(
    ("peak", "is_evidence"), [(100 * MIB, False), (900 * MIB, False), (920 * MIB, True)]
)
def test_the_machines_counter_is_evidence_if_the_process_had_filled_its_limit(
    machine: Machine, peak: int, *, is_evidence: bool
) -> None:
    machine.runs("v2", "/job")  # no counter of its own
    watch = machine.watch(limit=GIB)
    machine.holds(100 * MIB, peak)  # 80 % of the limit above what it held at the beginning
    watch.look()
    (machine.root / "proc" / str(PID) / "status").unlink()
    watch.look()
    assert watch.evidence() is None
    machine.kills_in_all(1)
    assert watch.evidence() is (KernelKill.MACHINE if is_evidence else None)


def test_a_process_without_a_limit_has_that_of_the_machine(machine: Machine) -> None:
    machine.runs("v2", "/job")
    watch = machine.watch(limit=None)
    machine.holds(100 * MIB, 900 * MIB)
    watch.look()
    machine.kills_in_all(1)
    assert watch.evidence() is None


def test_a_machine_without_such_files_has_no_evidence(tmp_path: Path) -> None:
    watch = MemoryWatch(PID, limit_bytes=GIB, root=tmp_path)
    watch.look()
    assert watch.evidence() is None
