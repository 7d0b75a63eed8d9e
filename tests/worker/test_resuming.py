"""Work is resumed only on the same device, with the same memory and the same versions."""

from dataclasses import replace

import pytest

from bsprobe._version import __version__
from bsprobe.records.errors import FileError
from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.units import GIB, MIB
from bsprobe.worker.protocol import Ready
from bsprobe.worker.resuming import require_same_device, require_same_versions
from tests.support.builders import DEVICE, ENVIRONMENT
from tests.support.script_runs import CPU, Made

WHOLE = replace(DEVICE, limit_bytes=None, capacity_bytes=20 * GIB)
"""A GPU without a memory limit: its capacity is the memory that other processes leave free."""


@pytest.mark.parametrize("change", [0, 3 * MIB, -3 * MIB, 64 * MIB - 1])
def test_a_few_mib_of_other_processes_are_no_difference(change: int) -> None:
    now = replace(WHOLE, capacity_bytes=WHOLE.capacity_bytes + change)
    require_same_device(WHOLE, now, "run in out")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            WHOLE,
            replace(WHOLE, capacity_bytes=20 * GIB - 300 * MIB),
            "NVIDIA GeForce RTX 4090 with 20.0 GiB and no memory limit, now it has 300 MiB less",
        ),
        (
            WHOLE,
            replace(WHOLE, capacity_bytes=20 * GIB + 64 * MIB),
            "NVIDIA GeForce RTX 4090 with 20.0 GiB and no memory limit, now it has 64 MiB more",
        ),
        (
            WHOLE,
            replace(WHOLE, name="A100"),
            (
                "NVIDIA GeForce RTX 4090 with 20.0 GiB and no memory limit, "
                "this is A100 with 20.0 GiB and no memory limit"
            ),
        ),
        (
            DEVICE,
            replace(DEVICE, limit_bytes=20 * GIB - MIB, capacity_bytes=20 * GIB - MIB),
            (
                "NVIDIA GeForce RTX 4090 with a memory limit of 20.0 GiB, "
                "this one has a memory limit of 20.0 GiB, which is 1 MiB less"
            ),
        ),
        (
            DEVICE,
            WHOLE,
            (
                "NVIDIA GeForce RTX 4090 with a memory limit of 20.0 GiB, "
                "this one has 20.0 GiB and no memory limit"
            ),
        ),
    ],
    ids=["less", "more", "name", "limit", "no limit"],
)
def test_another_device_or_memory_is_refused(
    before: DeviceInfo, now: DeviceInfo, message: str
) -> None:
    with pytest.raises(FileError) as refused:
        require_same_device(before, now, "run in out")
    assert str(refused.value) == f"the run in out was made on {message}"
    assert refused.value.hint is not None
    assert refused.value.hint.endswith("start a new run without --resume")


BEFORE = replace(ENVIRONMENT, bsprobe=__version__, cuda_alloc_conf=None)
READY = Ready(
    device=DEVICE,
    torch=BEFORE.torch,
    cuda=BEFORE.cuda,
    cudnn=BEFORE.cudnn,
    cpu_threads=BEFORE.cpu_threads,
)


@pytest.fixture(autouse=True)
def _no_allocator_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)


def test_the_same_versions_resume() -> None:
    require_same_versions(BEFORE, READY, "run in out")


@pytest.mark.parametrize(
    ("before", "old", "new"),
    [
        (replace(BEFORE, bsprobe="0.1.0"), "bsprobe 0.1.0", f"bsprobe {__version__}"),
        (replace(BEFORE, torch="2.5.1"), "PyTorch 2.5.1", "PyTorch 2.6.0+cu124"),
        (
            replace(BEFORE, torch="2.5.1", cuda=None),
            "PyTorch 2.5.1 and no CUDA",
            "PyTorch 2.6.0+cu124 and CUDA 12.4",
        ),
        (replace(BEFORE, cudnn="90000"), "cuDNN 90000", "cuDNN 90100"),
        (
            replace(BEFORE, cuda_alloc_conf="expandable_segments:True"),
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            "no PYTORCH_CUDA_ALLOC_CONF",
        ),
    ],
)
def test_another_version_is_refused_with_both_versions(
    before: Environment, old: str, new: str
) -> None:
    with pytest.raises(FileError) as refused:
        require_same_versions(before, READY, "study in out")
    assert str(refused.value) == f"the study in out was made with {old}, this is with {new}"
    assert refused.value.hint == f"use {old} again, or start a new study without --resume"


def test_allocator_settings_that_were_added_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with pytest.raises(FileError, match="with no PYTORCH_CUDA_ALLOC_CONF, this is with PYTORCH"):
        require_same_versions(BEFORE, READY, "run in out")


def test_settings_of_the_cuda_allocator_do_not_matter_on_a_cpu() -> None:
    before = replace(BEFORE, cuda_alloc_conf="expandable_segments:True")
    require_same_versions(before, replace(READY, device=CPU), "run in out")


def test_for_a_command_the_pytorch_of_bsprobe_does_not_matter_and_its_own_version_does() -> None:
    ready = replace(READY, device=CPU)
    script = Made().variant.script
    require_same_versions(replace(BEFORE, torch="1.0"), ready, "run in out", script=script)
    with pytest.raises(FileError, match=r"bsprobe 0\.0\.1"):
        require_same_versions(replace(BEFORE, bsprobe="0.0.1"), ready, "run in out", script=script)
