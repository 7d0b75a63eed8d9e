"""What `record_truth.py` records, the most valuable first."""

from dataclasses import dataclass, replace
from itertools import product

from bsprobe.trials import TrialSpec
from bsprobe.units import GIB, Resolution
from bsprobe.variants import (
    AXES,
    Checkpointing,
    CudnnBenchmark,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)

HALF = Resolution(height=512, width=1024)
FULL = Resolution(height=1024, width=2048)
CROP = Resolution(height=321, width=321)
"""DeepLab's own crops: every map has odd sides."""
RESNET101, RESNET50 = "deeplabv2-resnet101", "deeplabv2-resnet50"
OTHERS = (
    "torchvision:deeplabv3_resnet50",
    "torchvision:fcn_resnet50",
    "torchvision:deeplabv3_mobilenet_v3_large",
)
FP32, FP16, BF16 = Precision
CAPS = tuple(gib * GIB for gib in (12, 24, 8, 16, 40))
_BATCHES = (2, 5)
_TIMED_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A trial to record."""

    name: str
    spec: TrialSpec
    has_history: bool = True
    """Whether the allocator's history is recorded too; it would slow down what is timed."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that must be set when its process starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundarySearch:
    """A boundary to find under a memory limit."""

    name: str
    variant: Variant
    limit_bytes: int


def tier_1() -> tuple[Configuration, ...]:
    """Histories at two batch sizes each, in one process."""
    plain = Variant(model=RESNET101, resolution=HALF)
    variants = [
        replace(plain, precision=precision, norm=norm)
        for norm, precision in product((Norm.BATCH, Norm.GROUP), (FP32, FP16, BF16))
    ]
    variants += [
        replace(plain, precision=precision, norm=norm, memory_format=MemoryFormat.NHWC)
        for norm, precision in product((Norm.BATCH, Norm.GROUP), (FP32, FP16))
    ]
    variants += [replace(plain, model=m, precision=p) for m, p in product(OTHERS, (FP32, FP16))]
    variants += [
        *(
            replace(plain, precision=p, norm=n)
            for n in (Norm.INSTANCE, Norm.FROZEN)
            for p in (FP32, FP16)
        ),
        replace(plain, precision=FP16, norm=Norm.GROUP_AMP),
    ]
    variants += [
        replace(plain, model=RESNET50, precision=precision, norm=norm)
        for norm, precision in product((Norm.BATCH, Norm.GROUP), (FP32, FP16))
    ]
    variants += [
        replace(plain, resolution=CROP, precision=FP32),
        replace(plain, resolution=CROP, precision=FP16),
        replace(plain, resolution=FULL, precision=FP16),
        replace(plain, resolution=FULL, precision=FP32),
        replace(plain, model=RESNET50, precision=BF16),
        replace(plain, model=RESNET50, precision=FP16, memory_format=MemoryFormat.NHWC),
    ]
    variants += [
        replace(plain, model=model, precision=precision, memory_format=MemoryFormat.NHWC)
        for precision, model in product((FP16, FP32), OTHERS)
    ]
    variants += [replace(plain, model=m, precision=FP16, norm=Norm.GROUP) for m in OTHERS]
    return tuple(_traced(v, batch) for v in variants for batch in _batches(v))


def tier_2() -> tuple[BoundarySearch, ...]:
    """Exact boundaries under limits."""
    plain = Variant(model=RESNET101, resolution=HALF)
    first = [
        replace(plain, precision=precision, norm=norm)
        for norm, precision in product((Norm.BATCH, Norm.GROUP), (FP16, FP32))
    ]
    second = [
        replace(plain, precision=FP16, memory_format=MemoryFormat.NHWC),
        replace(plain, model=RESNET50, precision=FP16),
        replace(plain, model=OTHERS[0], precision=FP16),
        replace(plain, model=OTHERS[2], precision=FP16),
    ]
    return tuple(
        BoundarySearch(
            name=f"{name_of(variant)}-{limit // GIB}gib", variant=variant, limit_bytes=limit
        )
        for variants in (first, second)
        for limit, variant in product(CAPS, variants)
    )


def tier_3() -> tuple[Configuration, ...]:
    """What is off by default, and times; each in a process of its own."""
    plain = Variant(model=RESNET101, resolution=HALF, precision=FP16)
    full = replace(plain, precision=FP32)
    expandable = (("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),)
    changed = [
        replace(variant, **change)  # type: ignore[arg-type] # each names the field of its own kind
        for variant, change in product(
            (plain, full),
            (
                {"cudnn_benchmark": CudnnBenchmark.ON},
                {"checkpointing": Checkpointing.ON},
                {"optimizer": OptimizerName.ADAMW},
            ),
        )
    ]
    specs = [_spec(variant, 4) for variant in changed]
    specs += [replace(_spec(v, 2), accumulation_steps=3) for v in (plain, full)]
    specs += [replace(_spec(v, 2), evaluation_resolution=FULL) for v in (plain, full)]
    found = [Configuration(name=_name(spec), spec=spec) for spec in specs]
    found += [
        Configuration(name=f"{_name(spec)}-expandable", spec=spec, environment=expandable)
        for spec in (_spec(plain, 5), _spec(full, 5))
    ]
    timed = [
        replace(_spec(variant, batch), warmup_steps=3, measured_steps=10)
        for variant, batch in product((plain, full), _TIMED_BATCHES)
    ]
    found += [
        Configuration(name=f"{_name(spec)}-timed", spec=spec, has_history=False) for spec in timed
    ]
    return tuple(found)


def name_of(variant: Variant) -> str:
    """A variant as a file name: model, size, precision, norm, layout, what is not as by default."""
    parts = [
        variant.model.replace(":", "-"),
        str(variant.resolution),
        variant.precision,
        variant.norm,
    ]
    parts.append(variant.memory_format)
    rest = [axis for axis in AXES if axis.field not in ("precision", "norm", "memory_format")]
    for axis in rest:
        value = getattr(variant, axis.field)
        if value != axis.defaults[0]:
            parts.append((axis.label_prefix + value).replace(" ", "-"))
    return "-".join(map(str, parts))


def _batches(variant: Variant) -> tuple[int, ...]:
    return (1, 2) if variant.resolution == FULL else _BATCHES


def _traced(variant: Variant, batch: int) -> Configuration:
    spec = _spec(variant, batch)
    return Configuration(name=_name(spec), spec=spec)


def _spec(variant: Variant, batch: int) -> TrialSpec:
    # Two steps are all that differ: the first one, and one beside the optimizer's state.
    return TrialSpec(variant=variant, batch_size=batch, warmup_steps=1, measured_steps=1)


def _name(spec: TrialSpec) -> str:
    parts = [name_of(spec.variant), f"b{spec.batch_size}"]
    if spec.accumulation_steps > 1:
        parts.append(f"x{spec.accumulation_steps}")
    if spec.evaluation_resolution is not None:
        parts.append(f"evaluated-{spec.evaluation_resolution}")
    return "-".join(parts)
