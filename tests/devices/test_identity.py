"""Name and capacity of the device for a request, without opening it."""

import ctypes
import sys
from typing import Any

import pytest

from bsprobe.devices import cuda_driver, identity
from bsprobe.devices.cuda_driver import DriverFacts, ask_driver, facts_from
from bsprobe.devices.identity import Identity, identity_of
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.units import GIB, MIB

CARD = DriverFacts(name="NVIDIA X", total_bytes=24 * GIB, free_bytes=None)


class Driver:
    """A fake of CUDA's driver, with one GPU."""

    def cuInit(self, _: int) -> int:  # noqa: N802 - the driver's name
        return 0

    def cuDeviceGet(self, _: Any, index: int) -> int:  # noqa: N802 - as above
        return 0 if index == 0 else 101  # CUDA_ERROR_INVALID_DEVICE

    def cuDeviceGetName(self, name: Any, _: int, __: Any) -> int:  # noqa: N802 - as above
        name.value = b"NVIDIA X"
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, _: Any) -> int:  # noqa: N802 - as above
        ctypes.cast(total, ctypes.POINTER(ctypes.c_size_t))[0] = 24 * GIB
        return 0

    def cuDeviceGetUuid(self, identity: Any, _: Any) -> int:  # noqa: N802 - as above
        identity[:] = range(16)
        return 0


def test_name_and_memory_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def free_bytes(uuid: str) -> int:
        asked.append(uuid)
        return 20 * GIB

    monkeypatch.setattr(cuda_driver, "_free_bytes", free_bytes)

    found = facts_from(Driver(), 0)

    assert found == {"name": "NVIDIA X", "total_bytes": 24 * GIB, "free_bytes": 20 * GIB}
    assert asked == ["00010203-0405-0607-0809-0a0b0c0d0e0f"]
    with pytest.raises(OSError, match="101"):
        facts_from(Driver(), 1)


@pytest.mark.parametrize(
    ("free", "capacity"), [(None, 24 * GIB), (20 * GIB, 20 * GIB), (25 * GIB, 24 * GIB)]
)
def test_the_capacity_excludes_memory_of_other_processes(free: int | None, capacity: int) -> None:
    facts = DriverFacts(name="X", total_bytes=24 * GIB, free_bytes=free)
    assert facts.capacity_bytes == capacity


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU device needs Linux")
def test_the_cpu_has_an_identity_only_with_a_limit() -> None:
    found = identity_of(DeviceRequest(device="cpu", memory_limit_bytes=100 * MIB))
    assert found is not None
    assert found.capacity_bytes == 100 * MIB
    assert found.name.startswith("CPU (")
    assert identity_of(DeviceRequest(device="cpu")) is None


@pytest.mark.parametrize(
    ("name", "asked"), [(None, [0]), ("cuda", [0]), ("cuda:3", [3]), ("tpu", [])]
)
def test_a_gpu_is_queried_by_its_index(
    name: str | None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def answer(index: int) -> DriverFacts:
        seen.append(index)
        return CARD

    monkeypatch.setattr(identity, "ask_driver", answer)

    found = identity_of(DeviceRequest(device=name))
    limited = identity_of(DeviceRequest(device=name, memory_limit_bytes=GIB))

    assert seen == asked * 2
    if asked:
        assert found == Identity(name="NVIDIA X", capacity_bytes=24 * GIB)
        assert limited == Identity(name="NVIDIA X", capacity_bytes=GIB)


def test_without_a_driver_or_gpu_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hides the GPUs if there is a driver
    assert ask_driver(0) is None


@pytest.mark.gpu
def test_the_driver_and_pytorch_agree() -> None:
    import torch  # noqa: PLC0415 - the other tests do not need it

    facts = ask_driver(0)
    properties = torch.cuda.get_device_properties(0)
    assert facts is not None
    assert (facts.name, facts.total_bytes) == (properties.name, properties.total_memory)
