"""Forked workers behave like spawned ones, and no process is left behind."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bsprobe.worker import forking, spawning
from bsprobe.worker.forking import ForkedProcess, Servers
from bsprobe.worker.process import COMMAND as WORKER
from tests.support.births import (
    COMMAND,
    MODULE,
    becomes,
    is_alive,
    parent_of,
    run,
    started,
)
from tests.support.commands import popen, python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="servers are for Linux")

BOTH = pytest.mark.parametrize("spawned", [False, True], ids=["forked", "spawned"])
WAITING = "import sys; print('here', flush=True); sys.stdin.readline()"


@pytest.fixture(scope="module")
def shared() -> Iterator[Servers]:
    """Servers shared by the tests that do not change them."""
    servers = Servers()
    yield servers
    servers.end()


@pytest.fixture(autouse=True)
def _programs_are_forked(monkeypatch: pytest.MonkeyPatch, shared: Servers) -> None:
    """Use servers without PyTorch, which most tests do not need."""
    monkeypatch.setattr(forking, "PROGRAM", "tests.support.light_zygote")
    monkeypatch.setattr(spawning, "MODULES", (MODULE,))
    monkeypatch.setattr(spawning, "SERVERS", shared)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Servers for a single test."""
    servers = Servers()
    monkeypatch.setattr(spawning, "SERVERS", servers)
    yield servers
    servers.end()


@pytest.fixture
def _with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PROGRAM", "bsprobe.worker.zygote")
    monkeypatch.setattr(spawning, "SERVERS", forking.SERVERS)


def both(program: str, **environment: str) -> list[dict[str, Any]]:
    """Return the JSON that a program prints, forked and spawned."""
    ends = [run(program, spawned=spawned, **environment) for spawned in (False, True)]
    assert [end.status for end in ends] == [0, 0], ends
    return [json.loads(end.said) for end in ends]


ENDINGS = {
    "nothing more to do": ("pass", 0, ""),
    "sys.exit": ("import sys; sys.exit(7)", 7, ""),
    "sys.exit with words": ("import sys; sys.exit('no libcudart.so')", 1, "no libcudart.so"),
    "os._exit": ("import os; os._exit(3)", 3, ""),
    "an exception": ("raise MemoryError('no more')", 1, "MemoryError: no more"),
    "SIGSEGV": ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV, ""),
    "abort": ("import os; os.abort()", -signal.SIGABRT, ""),
    "SIGKILL": ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    "Ctrl-C": ("import os; os.kill(os.getpid(), 2)", -signal.SIGINT, "KeyboardInterrupt"),
    "work at exit": ("import atexit; atexit.register(print, 'bye')", 0, ""),
}


@BOTH
@pytest.mark.parametrize(("program", "status", "last_words"), ENDINGS.values(), ids=ENDINGS)
def test_a_process_has_the_same_exit_status_and_output_forked_and_spawned(
    program: str, status: int, last_words: str, *, spawned: bool
) -> None:
    ended = run(program, spawned=spawned)
    last = ended.complained.splitlines()[-1:] or [""]
    assert (ended.status, last[0]) == (status, last_words)
    assert ended.said == ("bye\n" if "atexit" in program else "")


@pytest.mark.usefixtures("own")
def test_a_forked_process_has_the_state_of_a_spawned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables, folder, path, name, arguments, descriptors, signals and session."""
    program = textwrap.dedent("""
        import gc, json, os, signal, sys
        handlers = {s.name: str(signal.getsignal(s)) for s in signal.valid_signals()
                    if isinstance(s, signal.Signals)}
        print(json.dumps({
            "variables": dict(os.environ), "folder": os.getcwd(), "path": sys.path,
            "program": __spec__.name, "main": sys.modules["__main__"].__spec__.name,
            "arguments": [sys.argv, sys.orig_argv], "collects": gc.isenabled(),
            "blocked": list(signal.pthread_sigmask(0, [])),
            "descriptors": sorted(map(int, set(os.listdir("/proc/self/fd")) & set("012345678"))),
            "handlers": handlers, "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
        }))
    """)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_PARENT", "1")
    with started("pass"):  # its server has the variable
        monkeypatch.delenv("OF_THE_PARENT")
    forked, spawned = both(program, OF_THE_CHILD="ä\udcff")
    for found in (forked, spawned):
        found["variables"].pop(spawning.SPAWN)
    assert forked == spawned
    assert forked["program"] == MODULE
    assert forked["leads"]


def test_a_process_inherits_no_descriptor_of_earlier_ones() -> None:
    program = """import os; print([os.readlink(f"/proc/self/fd/{each}") for each in range(3, 99)
        if os.path.exists(f"/proc/self/fd/{each}")], flush=True)"""
    with started(WAITING) as first:
        first.stdout.readline()
        assert run(program).said == "[]\n"
        assert first.process.poll() is None


@pytest.mark.usefixtures("_with_torch")
def test_random_numbers_differ_in_each_process() -> None:
    program = "import numpy, random; print(numpy.random.random(), random.random())"
    assert len({number for _ in range(2) for number in run(program).said.split()}) == 4


@pytest.mark.nightly
@pytest.mark.usefixtures("_with_torch")
def test_the_threads_of_openmp_work_in_a_process_whose_server_has_none() -> None:
    """After a tensor operation in the server the first large one in a child would hang."""
    program = textwrap.dedent("""
        import numpy, os, torch
        torch.set_num_threads(4)
        matrix = torch.ones(1500, 1500)
        print(float((matrix @ matrix)[0, 0]), (matrix.numpy() @ matrix.numpy())[0, 0])
        print(torch.cuda._is_in_bad_fork(), len(os.listdir(f"/proc/{os.getppid()}/task")))
    """)
    said = run(program, OPENBLAS_NUM_THREADS="1").said
    assert said.splitlines() == ["1500.0 1500.0", "False 1"]


@pytest.mark.usefixtures("_with_torch")
@pytest.mark.parametrize("how", ["forked", "spawned"])
@pytest.mark.nightly
def test_the_threads_of_openblas_do_not_count_as_memory_of_a_trial(how: str) -> None:
    """The threads start with the first large product; their stacks and buffers would count."""
    program = textwrap.dedent("""
        import numpy
        from bsprobe.devices import cpu
        from bsprobe.records.units import MIB

        cpu.CpuDevice(512 * MIB)
        before = cpu._status_bytes("VmData")
        matrix = numpy.ones((700, 700))
        matrix @ matrix
        del matrix
        print((cpu._status_bytes("VmData") - before) // MIB)
    """)
    said = run(program, spawned=how == "spawned", OPENBLAS_NUM_THREADS="4").said
    assert int(said) < 8


@pytest.mark.nightly
def test_the_imports_of_the_server_make_no_cuda_call() -> None:
    """A driver that is initialised in the server does not work in its children."""
    program = textwrap.dedent("""
        import importlib, torch
        from bsprobe.worker import zygote

        def refuse(*_):
            raise AssertionError("CUDA was called")

        for name in ("_cuda_getDeviceCount", "_cuda_init"):
            if hasattr(torch._C, name):
                setattr(torch._C, name, refuse)
        for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
            setattr(torch.cuda, name, refuse)
        for name in zygote.IMPORTS:
            importlib.import_module(name)
    """)
    done = python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("own")
def test_variables_that_libraries_read_when_loaded_choose_the_server() -> None:
    program = "import os; print(os.getppid(), os.environ['MALLOC_ARENA_MAX'])"
    said = [
        run(program, **variables).said.split()  # type: ignore[arg-type] # `spawned` is not given
        for variables in (
            {"MALLOC_ARENA_MAX": "1"},
            {"MALLOC_ARENA_MAX": "1", "CUDA_VISIBLE_DEVICES": "1", "RANK": "3"},
            {"MALLOC_ARENA_MAX": "2"},
        )
    ]
    (first, _), (same, _), (other, _) = said
    assert (same == first, other == first) == (True, False)
    assert [arenas for _, arenas in said] == ["1", "1", "2"]
    run("pass", MALLOC_ARENA_MAX="3")  # a third server ends the one that was used first
    assert [is_alive(int(pid)) for pid in (first, other)] == [False, True]


@pytest.mark.usefixtures("own")
def test_limits_of_the_parent_choose_the_server() -> None:
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    before = run(program).said
    resource.setrlimit(resource.RLIMIT_CORE, (0 if soft else min(hard, 4096), hard))
    try:
        after = [run(program, spawned=spawned).said for spawned in (False, True)]
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert after[0] == after[1]
    assert (after[0] == before) == (hard == 0)


@pytest.mark.usefixtures("own")
def test_a_server_whose_process_runs_is_not_ended_to_make_room() -> None:
    with started(WAITING, MALLOC_ARENA_MAX="1") as first:
        for arenas in ("2", "3"):
            assert run("pass", MALLOC_ARENA_MAX=arenas).status == 0
        assert first.process.poll() is None
        first.go_on()
        assert first.ended().status == 0


@pytest.mark.usefixtures("own")
def test_a_relative_path_of_modules_is_that_of_the_parents_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "of_this_folder.py").write_text("print('imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join(["modules", os.environ.get("PYTHONPATH", "")])
    assert run("import of_this_folder", PYTHONPATH=path).said == "imported\n"


def test_bsprobe_spawn_makes_every_worker_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "MODULES", (WORKER[-1],))
    assert spawning.prepared(WORKER, {}).server is not None
    assert spawning.prepared(WORKER, {"BSPROBE_SPAWN": "1"}).server is None


def test_another_program_is_spawned() -> None:
    assert spawning.prepared((sys.executable, "worker.py"), {}).server is None
    assert spawning.prepared((*COMMAND, "an argument"), {}).server is None


def test_a_killed_server_ends_its_processes_and_the_next_one_is_spawned(
    own: Servers,
) -> None:
    with started(WAITING) as begun:
        begun.stdout.readline()
        server = parent_of(begun.process.pid)
        birth = spawning.prepared(COMMAND, {"GIVEN_PROGRAM": "pass"})
        os.kill(server, signal.SIGKILL)
        assert begun.process.wait(timeout=20) == -signal.SIGKILL
        assert becomes(lambda: not is_alive(begun.process.pid))
    with tempfile.TemporaryFile() as stderr:
        process = birth.start(stderr)
        assert isinstance(process, subprocess.Popen)
        assert process.communicate(timeout=60) == (b"", None)
    assert own.find(os.environ) is None  # no server is used any more


def test_a_process_that_is_killed_before_it_reports_its_id_has_ended(
    own: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "PROGRAM", "tests.support.deadly_zygote")
    with started("pass") as begun:
        assert (begun.process.poll(), begun.process.wait()) == (-signal.SIGKILL, -signal.SIGKILL)
        assert begun.process.pid > 0
    assert own.find(os.environ) is not None  # the server still runs


def test_without_torch_no_server_is_used_and_the_worker_reports_the_error(
    tmp_path: Path, own: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "PROGRAM", "bsprobe.worker.zygote")
    (tmp_path / "torch.py").write_text("raise ImportError('no libcudart.so')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ended = run("import torch", PYTHONPATH=path)
    assert (ended.status, ended.complained.splitlines()[-1]) == (1, "ImportError: no libcudart.so")
    assert own.find(os.environ) is None


PARENT = '''
import sys, tempfile
from bsprobe.worker import forking, spawning
from tests.support.births import MODULE, started
spawning.MODULES = (MODULE,)
forking.PROGRAM = "tests.support.light_zygote"
CHILD = """
import os, subprocess
of_the_child = subprocess.Popen(["sleep", "600"])
print(os.getpid(), os.getppid(), of_the_child.pid, flush=True)
os.read(0, 1)
"""
with started(CHILD) as begun:
    print(begun.stdout.readline().decode(), end="", flush=True)
    begun.process.wait()
    print("ended", begun.process.poll(), flush=True)
'''


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_killed_leaves_neither_server_nor_worker(
    number: signal.Signals, tmp_path: Path
) -> None:
    parent = popen(sys.executable, "-c", PARENT, cwd=tmp_path)
    assert parent.stdout is not None
    pids = child, server, _ = [*map(int, parent.stdout.readline().split())]
    assert [*map(os.getsid, pids)] == [child, server, child]  # Ctrl-C reaches none of them
    parent.send_signal(number)
    parent.communicate(timeout=60)
    assert becomes(lambda: not any(map(is_alive, pids)))


def test_a_killed_worker_does_not_end_its_parent(tmp_path: Path) -> None:
    parent = popen(sys.executable, "-c", PARENT, cwd=tmp_path)
    assert parent.stdout is not None
    pids = child, _, _ = [*map(int, parent.stdout.readline().split())]
    os.kill(child, signal.SIGKILL)
    said, complained = parent.communicate(timeout=60)
    assert (parent.returncode, said, complained) == (0, "ended -9\n", "")
    assert not any(map(is_alive, pids))


@pytest.mark.usefixtures("own")
def test_threads_that_start_workers_at_once_share_a_server() -> None:
    together = threading.Barrier(4)

    def start(number: int) -> str:
        together.wait()
        large = dict.fromkeys("ABC", "x" * 100_000)  # more than the buffer of a socket
        program = f"import os; print(os.getppid(), {number})"
        return run(program, **large).said  # type: ignore[arg-type] # `spawned` is not given

    with ThreadPoolExecutor(4) as threads:
        said = [each.split() for each in threads.map(start, range(4))]
    assert [number for _, number in said] == ["0", "1", "2", "3"]
    assert len({server for server, _ in said}) == 1


def test_a_parent_that_ends_at_once_leaves_no_server_that_is_still_importing() -> None:
    program = textwrap.dedent("""
        import os, threading, time
        from bsprobe.worker.forking import SERVERS
        threading.Thread(target=SERVERS.find, args=(os.environ,), daemon=True).start()
        while not SERVERS._known:
            time.sleep(0.001)
        print(*(server._process.pid for server in SERVERS._known.values()))
    """)
    done = python("-c", program)
    assert not is_alive(int(done.stdout)), done.stderr


@pytest.mark.usefixtures("_with_torch")
def test_a_fork_of_the_parent_drops_its_servers() -> None:
    with started(WAITING) as begun:
        begun.stdout.readline()
        if (pid := os.fork()) == 0:
            known = len(forking.SERVERS._known)
            forking.SERVERS.end()
            os._exit(known)
        assert os.waitpid(pid, 0) == (pid, 0)
        begun.go_on()
        assert begun.ended().status == 0
        assert run("pass").status == 0


def test_waiting_for_a_running_process_times_out() -> None:
    with started(WAITING) as begun:
        assert isinstance(begun.process, ForkedProcess)
        with pytest.raises(subprocess.TimeoutExpired):
            begun.process.wait(timeout=0.05)
