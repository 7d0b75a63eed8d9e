"""Memory limits that a user's script gets from inside."""

import json
import resource
import sys
from typing import Any

import pytest

from tests.support.inside import Scripts
from tests.support.stub_torch import write_stub_torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LIMIT = 400 << 20
CPU = {"BSPROBE_LIMIT": str(LIMIT), "BSPROBE_LIMIT_KIND": "cpu"}
CUDA = {"BSPROBE_LIMIT": "700", "BSPROBE_LIMIT_KIND": "cuda", "BSPROBE_OUTSIDE": "200"}
UNLIMITED = resource.RLIM_INFINITY
STACK = resource.getrlimit(resource.RLIMIT_STACK)[0]
CLOSE = 1 << 20
"""Bytes of the interpreter's own that may come between a limit and its reading."""
LIMITS = """
import json, os, resource, subprocess, sys
told = []
def tell():
    for line in open("/proc/self/status"):
        if line.startswith("VmData:"):
            data = int(line.split()[1]) << 10
    told.append([resource.getrlimit(resource.RLIMIT_DATA)[0], data])
def finish():
    print(json.dumps(told))
"""


def test_the_limit_of_a_process_grows_with_what_pytorch_loads(scripts: Scripts) -> None:
    text = """
tell()
import torch
told.append([torch.LIMIT_IN_IMPORT, 0])
tell()
memory = bytearray(32 << 20)  # the script's: it does not raise the limit
optimizer = torch.optim.SGD([torch.Tensor(1)], lr=0.1)
tell()
import torch._dynamo
torch.optim.SGD([torch.Tensor(1)], lr=0.1)
tell()
finish()
"""
    ran = scripts.run(LIMITS + text, **CPU)
    start, importing, loaded, optimizing, again = ran.told
    assert start[0] == LIMIT
    assert importing[0] == UNLIMITED
    assert 0 <= loaded[1] + LIMIT - loaded[0] < CLOSE
    late = (16 << 20) + 2 * STACK
    assert 0 <= optimizing[0] - loaded[0] - late < CLOSE
    assert again[0] == optimizing[0]
    assert ran.files[0][0]["limit"] == "data above PyTorch"


def test_a_script_that_goes_on_without_pytorch_keeps_its_limit(scripts: Scripts) -> None:
    text = "try:\n    import torch\nexcept ImportError:\n    tell()\nfinish()\n"
    ((limit, _),) = scripts.run(LIMITS + text, STUB_FAILS="1", **CPU).told
    assert limit == LIMIT


def test_a_library_that_loads_pytorchs_late_part_first_changes_no_limit(scripts: Scripts) -> None:
    text = """
import torch
import torch._dynamo
tell()
torch.optim.SGD([torch.Tensor(1)], lr=0.1)
tell()
import torch.optim
finish()
"""
    library, optimizing = scripts.run(LIMITS + text, **CPU).told
    assert 0 <= library[1] + LIMIT - library[0] < CLOSE
    assert optimizing[0] - library[0] == 2 * STACK


def test_a_limit_in_a_process_is_that_of_its_own(scripts: Scripts) -> None:
    text = """
import torch
optimizer = torch.optim.SGD([torch.Tensor(1)], lr=0.1)
optimizer.step()
tell()
code = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
told.append([int(subprocess.check_output([sys.executable, "-c", code])), 0])
if os.fork() == 0:
    tell()
    optimizer.step()
    tell()
    finish()
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""
    parent, executed, forked, stepped = scripts.run(LIMITS + text, **CPU).told
    assert executed[0] == LIMIT
    assert forked[0] == UNLIMITED
    assert stepped[0] == parent[0] > LIMIT


def test_a_script_cannot_exceed_its_limit_and_says_so(scripts: Scripts) -> None:
    text = """
import torch
torch.optim.SGD([torch.Tensor(1)], lr=0.1).step()
kept = bytearray(350 << 20)
try:
    bytearray(100 << 20)
except MemoryError:
    print("caught")
"""
    ran = scripts.run(text, **CPU)
    assert ran.done.stdout == "caught\n"
    assert [each["message"] for each in ran.records("oom")] == ["MemoryError"]


def test_without_a_limit_none_is_set(scripts: Scripts) -> None:
    text = "import torch\ntell()\ntorch.optim.SGD([torch.Tensor(1)], lr=0.1)\ntell()\nfinish()\n"
    ran = scripts.run(LIMITS + text)
    unchanged = resource.getrlimit(resource.RLIMIT_DATA)[0]
    assert [each[0] for each in ran.told] == [unchanged] * 2
    assert ran.files[0][0]["limit"] is None


PRINTS_SETTINGS = """
import json, os, torch
torch.cuda.initialise(300, 400)
names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
print(json.dumps([[os.environ.get(name) for name in names], torch.cuda.SHARES]))
"""
SHARE = "per_process_memory_fraction:0.250000000"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [SHARE, None]),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:64"},
            [f"expandable_segments:True,max_split_size_mb:64,{SHARE}", None],
        ),
        (
            {"PYTORCH_ALLOC_CONF": "roundup_power2_divisions:[256:1,512:2,>:4]"},
            [None, f"roundup_power2_divisions:[256:1,512:2,>:4],{SHARE}"],
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.5, backend:native"},
            [f" backend:native,{SHARE}", None],
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.125"},
            ["per_process_memory_fraction:0.125000000", None],
        ),
    ],
)
def test_a_share_of_a_gpu_is_added_to_the_settings_of_the_allocator(
    given: dict[str, str], expected: list[str | None], scripts: Scripts
) -> None:
    ran = scripts.run(PRINTS_SETTINGS, **CUDA, BSPROBE_TOTAL="2000", **given)
    assert ran.told == [expected, {}]
    assert ran.files[0][0]["limit"] == "allocator setting"


@pytest.mark.parametrize(
    ("version", "variables"),
    [
        ("2.9.1+cu128", {"BSPROBE_TOTAL": "2000"}),
        ("1.10.2", {"BSPROBE_TOTAL": "2000"}),
        ("2.10", {}),
    ],
)
def test_a_pytorch_without_the_setting_is_limited_when_cuda_is_initialised(
    version: str, variables: dict[str, str], scripts: Scripts
) -> None:
    write_stub_torch(scripts.site, version=version)
    ran = scripts.run(PRINTS_SETTINGS, **CUDA, **variables)
    assert ran.told == [[None, None], {"0": 0.5, "1": 0.25}]
    assert ran.files[0][0]["limit"] == "memory fraction"


def test_cuda_is_never_initialised_for_its_limit(scripts: Scripts) -> None:
    write_stub_torch(scripts.site, version="2.9.1")
    text = """
import json, torch
optimizer = torch.optim.SGD([torch.Tensor(1)], lr=0.1)
optimizer.step()
print(json.dumps([torch.cuda.SHARES, len(torch.cuda.QUEUED)]))
"""
    ran = scripts.run(text, **CUDA)
    assert ran.told == [{}, 1]
    assert [each["device"] for each in ran.records("step")] == ["cpu"]


def test_the_memory_of_the_fullest_gpu_is_recorded(scripts: Scripts) -> None:
    text = """
import json, torch
optimizer = torch.optim.SGD([torch.Tensor(1)], lr=0.1)
for reserved in (500, 400, 450):  # as if the script had reset the peak
    torch.cuda.initialise(300, reserved)
    optimizer.step()
print(json.dumps(torch.cuda.WAITED))
"""
    ran = scripts.run(text, BSPROBE_WARMUP="1", BSPROBE_STEPS="3")
    names = ("device", "allocated", "reserved", "retries", "ooms", "held", "unused")
    steps: list[dict[str, Any]] = ran.records("step")
    assert [[each[name] for name in names] for each in steps] == [
        ["cuda", 499, 500, 2, 4, 5, 0]
    ] * 3
    assert json.loads(ran.done.stdout) == [1, 1]  # after steps 1 and 3 only
