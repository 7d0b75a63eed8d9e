"""Out-of-memory exceptions of a user's script, caught by it or not."""

import sys

import pytest

from tests.support.inside import Scripts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CPU = {"BSPROBE_LIMIT": str(400 << 20), "BSPROBE_LIMIT_KIND": "cpu"}
RAISES = """
import gc, sys, weakref
class Held: pass
class Narrow(MemoryError): pass
held = []
def deep(error):
    here = Held()
    held.append(weakref.ref(here))
    raise error
def caught(error):
    try:
        deep(error)
    except BaseException:
        pass
before = caught
import torch
for error in (
    RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
    ValueError("CUDA out of memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("a bug"),
    torch.OutOfMemoryError("on a GPU"),
    Narrow("x" * 5000),
    KeyError("CUDA out of memory"),
):
    caught(error)
    del error
def body():
    try:
        raise MemoryError  # in a function that was called by none of the traced
    except MemoryError:
        pass
body()
gc.collect()
assert [each() for each in held] == [None] * 7
"""
MESSAGES = [
    "RuntimeError: [enforce] DefaultCPUAllocator: can't allocate memory: 5 bytes",
    "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",
    "OutOfMemoryError: on a GPU",
    ("Narrow: " + "x" * 5000)[:2000],
    "MemoryError",
]
FAKE_MONITORING = """
import sys, types
tools = {{3: {taken!r}, 4: {taken!r}}}
calls = []
def register(tool, event, call):
    calls.append(call)
sys.monitoring = types.SimpleNamespace(
    events=types.SimpleNamespace(RAISE=1024), get_tool=tools.get,
    use_tool_id=tools.__setitem__, register_callback=register,
    set_events=lambda tool, events: calls.append((tool, events)),
)
import torch
assert sys.gettrace() is None
if calls:
    error = MemoryError()
    call, events = calls
    assert (events, tools) == ((4, 1024), {{3: None, 4: "bsprobe"}})
    for _ in range(2):  # each function that it passes
        call(None, 0, error)
"""


def test_each_out_of_memory_that_a_script_catches_is_recorded_once(scripts: Scripts) -> None:
    ran = scripts.run(RAISES, **CPU)
    assert [each["message"] for each in ran.records("oom")] == MESSAGES
    assert len(ran.records("end")) == 1


def test_threads_are_watched_too(scripts: Scripts) -> None:
    text = """
import threading, torch
def work():
    try:
        raise MemoryError
    except MemoryError:
        pass
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert len(scripts.run(text, **CPU).records("oom")) == 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="has sys.monitoring")
def test_a_debugger_is_left_alone(scripts: Scripts) -> None:
    text = """
import sys
def mine(*_): return None
sys.settrace(mine)
import torch
assert sys.gettrace() is mine
"""
    assert scripts.run(text, **CPU).records("oom") == []


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="has sys.monitoring")
def test_without_a_limit_on_the_cpu_nothing_is_traced(scripts: Scripts) -> None:
    text = "import sys, torch\nassert sys.gettrace() is None\n"
    scripts.run(text).records("oom")
    scripts.run(text, BSPROBE_LIMIT="5", BSPROBE_LIMIT_KIND="cuda")


@pytest.mark.parametrize(("taken", "found"), [(None, 1), ("another", 0)])
def test_a_newer_python_monitors_what_is_raised(
    taken: str | None, found: int, scripts: Scripts
) -> None:
    ran = scripts.run(FAKE_MONITORING.format(taken=taken))
    assert len(ran.records("oom")) == found
