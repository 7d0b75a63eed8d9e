"""A worker and all processes that its network starts end within five seconds of their parent."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bsprobe.worker import tether
from bsprobe.worker.spawning import SPAWN
from tests.support.births import becomes, parent_of
from tests.support.commands import python_path
from tests.support.torchrun import Started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
RUN = (
    *("-m", "bsprobe", "run", "--device=cpu", "--memory-limit=1GiB", "--out=out"),
    *("--model=tests.support.stubborn_network:Stubborn", "--resolution=64x64"),
    *("--precision=fp32", "--norm=batch"),
)
SLEEPING = "import time; time.sleep(600)"


def worker_of(started: Started) -> int | None:
    """Return the worker: the parent of the sleeping process that its network has started."""
    for pid in started.alive(SLEEPING):
        with suppress(OSError):
            return parent_of(pid)
    return None


@pytest.fixture
def begun(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Started]:
    """A run whose network is asleep."""
    how, lock = request.param
    argument = f"--model-arg=holds_lock={lock}"
    started = Started(
        (sys.executable, *RUN, argument), tmp_path, **{SPAWN: str(int(how == "spawned"))}
    )
    try:
        assert becomes(lambda: worker_of(started) is not None, within=60)
        yield started
    finally:
        for pid in started.alive():
            os.kill(pid, signal.SIGKILL)
        started.process.communicate()


BY_DAY = ("forked", True, "parent")
ALL = [
    (how, lock, killed)
    for how in ("forked", "spawned")
    for lock in (True, False)
    for killed in ("parent", "both")
]


@pytest.mark.parametrize(
    ("begun", "killed"),
    [
        pytest.param(
            (how, lock),
            killed,
            id=f"{how}, {'holds the lock' if lock else 'sleeps'}, {killed}",
            marks=() if (how, lock, killed) == BY_DAY else pytest.mark.nightly,
        )
        for how, lock, killed in ALL
    ],
    indirect=["begun"],
)
def test_a_killed_run_leaves_no_process(begun: Started, killed: str) -> None:
    worker = worker_of(begun)
    assert worker is not None
    if killed == "both":
        os.kill(worker, signal.SIGKILL)
    begun.process.kill()
    begun.process.wait()
    assert begun.all_gone(within=5), begun.alive()


@pytest.mark.nightly
@pytest.mark.parametrize("begun", [("forked", True)], ids=["forked"], indirect=True)
def test_processes_of_a_network_end_with_its_worker(begun: Started) -> None:
    """The run repeats the trial once, with a new worker and a new sleeping process."""
    worker = worker_of(begun)
    assert worker is not None
    first = set(begun.alive(SLEEPING))
    os.kill(worker, signal.SIGKILL)
    assert becomes(lambda: not first & set(begun.alive(SLEEPING)), within=5)
    assert becomes(lambda: worker_of(begun) not in (worker, None))


def test_only_the_main_thread_ties_a_process_to_itself() -> None:
    found: list[dict[str, str]] = []
    other = threading.Thread(target=lambda: found.append(tether.parent_variable()))
    other.start()
    other.join()
    assert found == [{tether.PARENT: ""}]
    assert tether.parent_variable() == {tether.PARENT: str(os.getpid())}


def tied_to(parent: str) -> int:
    """Return the exit status of a process that is tied to a parent."""
    program = "from bsprobe.worker.tether import end_with_parent as end; end(); print('lives')"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path(), tether.PARENT: parent},
        check=False,
        timeout=60,
        stdout=subprocess.DEVNULL,
    ).returncode


def test_a_process_whose_parent_has_ended_exits_at_once() -> None:
    assert tied_to(str(os.getpid())) == 0
    assert tied_to("") == 0
    assert tied_to("1") == 1


def test_the_watcher_of_another_group_kills_no_process() -> None:
    """The watcher is in the group of this test, not in the group that it is told to watch."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", tether.WATCHER, "1"], check=False, timeout=60, input=b""
    )
    assert done.returncode == 0


def test_a_process_that_leads_no_group_has_no_watcher() -> None:
    program = (
        "import os; from bsprobe.worker.tether import watch_group; watch_group()\n"
        "try: os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError: print('no child')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": python_path()},
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "no child\n"
