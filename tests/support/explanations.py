"""An invented explanation, small enough to check its sums by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.explanations import (
    EXPLANATION_VERSION,
    LOSS,
    NOT_ATTRIBUTED,
    Allocation,
    Explanation,
    ExplanationReport,
    LinePoint,
    Mark,
    MeasuredSide,
    RemedyResult,
    Series,
    StepTimeline,
)
from bsprobe.records.runs import Boundary, DeviceInfo, Environment, StopReason
from bsprobe.records.trials import Source, TrialSpec
from bsprobe.records.units import GIB, MIB
from bsprobe.records.variants import Checkpointing, OptimizerName
from bsprobe.report.explain.plots import PICTURES
from tests.support import builders

VARIANT = builders.VARIANT


def proven(largest: int) -> Boundary:
    return Boundary(stop=StopReason.PROVEN, largest=largest, first_failure=largest + 1)


def remedy(option: str, cost: str, name: str, **others: Any) -> RemedyResult:
    return RemedyResult(
        **{"name": name, "command": f"--{option}", "cost": cost, "variant": VARIANT, **others}
    )


def allocation(
    module: str, kind: str, operator: str, mib: int, per_image_mib: int = 0
) -> Allocation:
    return Allocation(
        module=module,
        kind=kind,
        operator=operator,
        phase="forward",
        size_bytes=mib * MIB,
        per_image_bytes=per_image_mib * MIB,
    )


def point(batch: int, used_mib: int, fragmentation_mib: int, **place: str) -> LinePoint:
    return LinePoint(
        batch=batch,
        used_bytes=used_mib * MIB,
        fragmentation_bytes=fragmentation_mib * MIB,
        **{
            "phase": "backward",
            "module": "layer2.0.conv1",
            "operator": "convolution_backward",
            **place,
        },
    )


EXPLANATION = Explanation(
    spec=TrialSpec(variant=VARIANT, batch_size=2),
    source=Source.PREDICTED,
    fits=True,
    capacity_bytes=12 * GIB,
    outside_allocator_bytes=256 * MIB,
    phase="backward",
    module="layer2.0.conv1",
    operator="convolution_backward",
    allocations=(
        allocation("layer2.0.conv1", "saved activations", "convolution", 4096, 2048),
        allocation("layer2.1", "saved activations", "add", 2048, 1024),
        allocation("layer1.0", "saved activations", "convolution", 1024, 512),
        allocation("layer1", "parameters", "to", 512),
        allocation("", "batch", "to", 128, 64),
        allocation("layer2.0.conv1", "workspace", "convolution_backward", 64),
    ),
    peak_allocated_bytes=7900 * MIB,
    peak_reserved_bytes=8192 * MIB,
    scales=True,
    line=(
        point(1, 4480, 400),
        point(2, 8128, 320),
        point(3, 11776, 1536),
        point(5, 19584, 512, module=LOSS, operator="mul"),
    ),
    next_peak_bytes=13 * GIB,
    timeline=StepTimeline(
        events=40,
        marks=tuple(
            Mark(phase=phase, event=event)
            for phase, event in (("forward", 0), ("backward", 15), ("optimizer", 35))
        ),
        at=(0, 10, 20, 39),
        reserved_bytes=(8192 * MIB,) * 4,
        by_kind=(
            Series(name="parameters", sizes_bytes=(512 * MIB,) * 4),
            Series(name="saved activations", sizes_bytes=(0, 4096 * MIB, 7168 * MIB, 0)),
        ),
        by_module=(
            Series(name="layer2", sizes_bytes=(0, 4096 * MIB, 6144 * MIB, 0)),
            Series(name="other modules", sizes_bytes=(512 * MIB, 512 * MIB, 1536 * MIB, 512 * MIB)),
        ),
        next_allocated_bytes=(512 * MIB, 6144 * MIB, 12288 * MIB, 512 * MIB),
    ),
)
REMEDIES = (
    remedy(
        "checkpointing on",
        "slower: every block runs forward twice",
        "checkpointing on",
        variant=replace(VARIANT, checkpointing=Checkpointing.ON),
        boundary=proven(7),
        peak_bytes=4 * GIB,
        per_image_bytes=1024 * MIB,
    ),
    remedy(
        "precision amp-fp16",
        "none: faster on tensor cores",
        "amp-fp16",
        variant=builders.AMP,
        boundary=proven(5),
        peak_bytes=5 * GIB,
        per_image_bytes=2048 * MIB,
    ),
    remedy(
        "target-batch N",
        "BatchNorm normalises one micro-batch",
        "accumulation",
        accumulation_steps=2,
        boundary=proven(2),
    ),
    remedy(
        "optimizer adamw",
        "another recipe",
        "adamw",
        variant=replace(VARIANT, optimizer=OptimizerName.ADAMW),
        impossible="no such thing here",
    ),
)
REPORT = ExplanationReport(
    schema_version=EXPLANATION_VERSION,
    environment=Environment(
        bsprobe="0.1.0",
        commit="abc1234",
        command="bsprobe explain --gpu 'Invented 12'",
        started_at="2026-01-02T03:04:05+00:00",
        python="3.11.7",
        platform="Linux-6.1-x86_64",
        torch="2.11.0",
        torchvision="0.26.0",
        cuda="13.0",
        cudnn="91500",
        cuda_alloc_conf=None,
        cpu_threads=16,
    ),
    device=DeviceInfo(
        kind=DeviceKind.SIMULATED,
        name="Invented 12",
        source=Source.PREDICTED,
        total_bytes=12 * GIB,
        capacity_bytes=12 * GIB,
        compute_capability="8.6",
    ),
    variant=VARIANT,
    boundary=proven(2),
    explanation=EXPLANATION,
    remedies=REMEDIES,
)
MEASURED = replace(
    EXPLANATION,
    source=Source.MEASURED,
    outside_allocator_bytes=300 * MIB,
    module="layer2.1",
    operator="add",
    allocations=(
        *(replace(each, per_image_bytes=0) for each in EXPLANATION.allocations[:-1]),
        allocation(NOT_ATTRIBUTED, NOT_ATTRIBUTED, f"{NOT_ATTRIBUTED}: nets.py:9 forward", 150),
    ),
    peak_allocated_bytes=8000 * MIB,
    peak_reserved_bytes=8400 * MIB,
    scales=False,
    line=(),
    next_peak_bytes=None,
    timeline=replace(
        EXPLANATION.timeline,
        by_kind=(
            *EXPLANATION.timeline.by_kind,
            Series(name=NOT_ATTRIBUTED, sizes_bytes=(0, 0, 150 * MIB, 0)),
        ),
        next_allocated_bytes=(),
    ),
)
GPU = replace(
    REPORT.device,
    kind=DeviceKind.CUDA,
    name="NVIDIA Invented 12",
    source=Source.MEASURED,
    driver="600.1",
)
MEASURED_REPORT = replace(
    REPORT,
    measured=MeasuredSide(device=GPU, boundary=REPORT.boundary, explanation=MEASURED),
)
"""The same explanation with a GPU in the machine."""


def without_drawing(explanation: Explanation, folder: Path, *, prefix: str = "") -> None:
    """Write empty files in place of the pictures, whose drawing takes seconds."""
    assert explanation.timeline.at
    for name in PICTURES:
        (folder / f"{prefix}{name}.png").touch()
