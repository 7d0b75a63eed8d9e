"""A run is resumed only on the same device with the same memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.engine.resume import require_same_device
from bsprobe.records.errors import FileError
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.units import GIB, MIB
from tests.support.builders import DEVICE

WHOLE = replace(DEVICE, limit_bytes=None, capacity_bytes=20 * GIB)
"""A GPU without a memory limit: its capacity is the memory that other processes leave free."""


@pytest.mark.parametrize("change", [0, 3 * MIB, -3 * MIB, 64 * MIB - 1])
def test_a_few_mib_of_other_processes_are_no_difference(change: int) -> None:
    now = replace(WHOLE, capacity_bytes=WHOLE.capacity_bytes + change)
    require_same_device(WHOLE, now, Path("out"))


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
        require_same_device(before, now, Path("out"))
    assert str(refused.value) == f"the run in out was made on {message}"
    assert refused.value.hint is not None
    assert refused.value.hint.endswith("start a new run without --resume")
