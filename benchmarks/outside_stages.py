"""Measure memory outside PyTorch's allocator on this GPU, stage by stage, as lines of JSON.

    PYTHONPATH=. python benchmarks/outside_stages.py FILE [--rehearse]

Appends to FILE line by line and prints the same. All sizes are in MiB. If a stage fails, its line
holds the error and the next stage follows.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import torch

from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import MemoryFormat, Norm, Precision, Variant

_CAP_BYTES = 12 * GIB
_BATCH = 2


class Stages:
    """The file of stages; each stage is written as soon as it is measured."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._start = time.monotonic()

    def say(self, stage: str, **figures: object) -> None:
        """Write a stage."""
        seconds = round(time.monotonic() - self._start, 1)
        line = json.dumps({"stage": stage, "seconds": seconds, **figures})
        self._file.write(line + "\n")
        self._file.flush()
        print(line, flush=True)


def nvml(index: int = 0) -> dict[str, object]:
    """Return the driver's view, which needs no context."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        plain = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found: dict[str, object] = {
            "nvml_total": plain.total / MIB,
            "nvml_free": plain.free / MIB,
            "nvml_used": plain.used / MIB,
        }
        new = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        found |= {"nvml_v2_reserved": new.reserved / MIB, "nvml_v2_used": new.used / MIB}
    except (pynvml.NVMLError, AttributeError, TypeError) as error:
        return {"nvml": str(error)}
    return found


def cuda() -> dict[str, object]:
    """Return CUDA's view, and the share of PyTorch's allocator."""
    free, total = torch.cuda.mem_get_info(0)
    reserved = torch.cuda.memory_reserved(0)
    return {
        "cuda_total": total / MIB,
        "cuda_free": free / MIB,
        "reserved": reserved / MIB,
        "outside": (total - free - reserved) / MIB,
    }


def variants(*, is_rehearsal: bool) -> Iterator[Variant]:
    """Yield the variants to run, the most common first."""
    plain = Variant(model="deeplabv2-resnet101", resolution=Resolution(height=512, width=1024))
    if is_rehearsal:
        small = Resolution(height=64, width=128)
        plain = replace(plain, model="deeplabv2-mini", resolution=small)
    half = replace(plain, precision=Precision.AMP_FP16)
    yield plain
    yield half
    yield replace(plain, norm=Norm.GROUP)
    yield replace(half, norm=Norm.GROUP)
    yield replace(half, memory_format=MemoryFormat.NHWC)


def measure(stages: Stages, *, is_rehearsal: bool) -> None:
    """Measure from an unused GPU to one on which five networks have run."""
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - after the first stages

    stages.say(
        "versions",
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        python=sys.version,
    )
    stages.say("nothing done", **nvml())
    properties = torch.cuda.get_device_properties(0)
    stages.say(
        "properties asked",
        name=properties.name,
        uuid=str(properties.uuid),
        total_memory=properties.total_memory / MIB,
        **nvml(),
    )
    device = CudaDevice(0, None)
    stages.say(
        "opened",
        driver=device.info.driver,
        others=device.info.other_processes_bytes,
        notes=device.info.notes,
        **cuda(),
        **nvml(),
    )
    for variant in variants(is_rehearsal=is_rehearsal):
        _run(stages, device, "real step", variant)


def measure_capped(stages: Stages, *, is_rehearsal: bool) -> None:
    """Run the first network under a memory limit."""
    from bsprobe.devices.cuda import CudaDevice  # noqa: PLC0415 - as above

    device = CudaDevice(0, _CAP_BYTES)
    stages.say("opened for 12 GiB", others=device.info.other_processes_bytes, **cuda())
    _run(stages, device, "capped to 12 GiB", next(variants(is_rehearsal=is_rehearsal)))


def _run(stages: Stages, device: Any, stage: str, variant: Variant) -> None:
    """Run a trial and write the memory outside the allocator afterwards."""
    words = f"{stage}: {variant.precision} {variant.norm} {variant.memory_format}"
    started = time.monotonic()
    try:
        found = device.run_trial(TrialSpec(variant=variant, batch_size=_BATCH), lambda _: None)
        stages.say(
            words,
            wall=round(time.monotonic() - started, 1),
            outside_trial=found.outside_allocator_bytes / MIB,
            budget=None if device.budget_bytes is None else device.budget_bytes / MIB,
            peak_reserved=(found.peak_reserved_bytes or 0) / MIB,
            step_seconds=found.step_seconds,
            steps=found.steps,
            updates=found.updates_applied,
            clean=device.is_clean(),
            left=torch.cuda.memory_allocated(0),
            **cuda(),
        )
    except Exception as error:  # noqa: BLE001 - later stages may still succeed
        traceback.print_exc()
        stages.say(f"FAILED {words}", error=repr(error)[:300])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="run a small network")
    parser.add_argument("--capped", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.capped:
        measure_capped(Stages(given.file), is_rehearsal=given.rehearse)
        return
    measure(Stages(given.file), is_rehearsal=given.rehearse)
    # A new process, because the memory of this one must not count towards that limit.
    command = [sys.executable, __file__, str(given.file), "--capped"]
    subprocess.run(command + ["--rehearse"] * given.rehearse, check=False)


if __name__ == "__main__":
    main()
