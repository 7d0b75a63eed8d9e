"""Memory of a command from outside: /proc, and NVML by process."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB, MIB
from bsprobe.records.variants import Variant
from bsprobe.worker.script.environment import Place, environment_of
from bsprobe.worker.script.outside import Outside
from tests.worker.script.test_runner import CARD, CPU

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SPEC = TrialSpec(
    variant=Variant(model="train.py", resolution=None),
    batch_size=4,
    accumulation_steps=2,
    warmup_steps=2,
    measured_steps=3,
)


def test_the_gpu_memory_of_the_command_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[int, list[tuple[int, int | None]]] = {
        0: [(10, 3 * GIB), (99, 70 * GIB)],
        1: [(11, 5 * GIB), (12, None)],  # a driver that does not tell
    }

    def processes(index: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in held[index]]

    stand_ins: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": processes,
    }
    for name, function in stand_ins.items():
        monkeypatch.setattr(pynvml, name, function)
    outside = Outside()
    outside.look_at_gpus([10, 11, 12])
    assert outside.gpu_bytes == 5 * GIB
    held[1] = [(11, 2 * GIB)]
    outside.look_at_gpus([10, 11])
    assert outside.gpu_bytes == 5 * GIB  # the peak


def test_without_a_driver_the_memory_of_a_gpu_is_not_known() -> None:
    outside = Outside()
    outside.look_at_gpus([os.getpid()])
    assert outside.gpu_bytes is None


def test_a_process_that_is_gone_is_passed_over() -> None:
    outside = Outside()
    outside.look([2**22 + 1, os.getpid()])
    assert outside.resident_bytes > 5 * MIB


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CPU, {"BSPROBE_LIMIT": str(GIB), "BSPROBE_LIMIT_KIND": "cpu"}),
        (
            CARD,
            {
                "BSPROBE_LIMIT": str(GIB),
                "BSPROBE_LIMIT_KIND": "cuda",
                "BSPROBE_OUTSIDE": "512",
                "BSPROBE_TOTAL": str(8 * GIB),
            },
        ),
    ],
)
def test_the_limit_is_in_the_environment(device: Any, expected: dict[str, str]) -> None:
    place = Place(Path("somewhere"))
    made = environment_of(SPEC, device, place, {"PYTHONPATH": "mine"}, outside_bytes=512, gpu="3")
    assert {name: made[name] for name in expected} == expected
    assert made["CUDA_VISIBLE_DEVICES"] == "3"
    assert made["PYTHONPATH"].split(os.pathsep)[1:] == ["mine"]
    assert (made["BSPROBE_WARMUP"], made["BSPROBE_STEPS"]) == ("2", "5")
    assert (made["BSPROBE_BATCH"], made["BSPROBE_ACCUMULATION"]) == ("4", "2")
