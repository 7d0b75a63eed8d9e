"""The plan of `record_truth.py`, the most valuable recordings first."""

from dataclasses import dataclass, replace
from itertools import product

from bsprobe.records.trials import TrialSpec, Validation
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import (
    AXES,
    Checkpointing,
    CudnnBenchmark,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)
from bsprobe.records.workload import NOTHING_OWN, OwnParts

HALF = Resolution(height=512, width=1024)
FULL = Resolution(height=1024, width=2048)
CROP = Resolution(height=321, width=321)
"""DeepLab's own crops; all feature maps have odd sides."""
CROPPED = Resolution(height=512, width=512)
IMAGE = Resolution(height=224, width=224)
VOLUME = Resolution(height=96, width=96, slices=96)
OWN = "benchmarks/recorded_networks.py"
RESNET101, RESNET50 = "deeplabv2-resnet101", "deeplabv2-resnet50"
OTHERS = (
    "torchvision:deeplabv3_resnet50",
    "torchvision:fcn_resnet50",
    "torchvision:deeplabv3_mobilenet_v3_large",
)
FP32, FP16, BF16 = Precision
CAPS = tuple(gib * GIB for gib in (12, 24, 8, 16, 40))
_BATCHES = (2, 5)
_SMALL = "deeplabv2-mini"
_SMALL_SIZE = Resolution(height=64, width=128)
_SMALL_SEARCHED = Resolution(height=512, width=1024)
_TIMED_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A trial to record."""

    name: str
    spec: TrialSpec
    process: str
    """Configurations of one process name are recorded in order in one process, because a new
    process takes seconds to import torch, torchvision and dynamo."""
    has_history: bool = True
    """True to record the allocator's history too; it would slow down timed steps."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that must be set before the process starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundarySearch:
    """Boundaries to find under one memory limit: every precision with every norm."""

    name: str
    variant: Variant
    precisions: tuple[Precision, ...]
    norms: tuple[Norm, ...]
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the recording: a tier or a part of it."""

    tier: str
    configurations: tuple[Configuration, ...] = ()
    searches: tuple[BoundarySearch, ...] = ()


def in_order() -> tuple[Stage, ...]:
    """Return all stages, in the order of their value per second."""
    histories = tier_1()
    half = len(histories) // 2
    return (
        Stage(tier="4", configurations=tier_4()),
        Stage(tier="1", configurations=histories[:half]),
        Stage(tier="3", configurations=tier_3_memory()),
        Stage(tier="1", configurations=histories[half:]),
        Stage(tier="2", searches=tier_2()),
        Stage(tier="3", configurations=tier_3_times()),
    )


def tier_1() -> tuple[Configuration, ...]:
    """Return trials with histories, two batch sizes each, in one process."""
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
    """Return exact boundaries under limits: recorded networks, the matrix, single variants."""
    plain = Variant(model=RESNET101, resolution=HALF)
    single = (
        replace(plain, memory_format=MemoryFormat.NHWC),
        replace(plain, model=RESNET50),
        replace(plain, model=OTHERS[0]),
        replace(plain, model=OTHERS[2]),
    )
    matrices = [_searched(plain, (FP32, FP16), (Norm.BATCH, Norm.GROUP), cap) for cap in CAPS]
    singles = [_searched(v, (FP16,), (Norm.BATCH,), cap) for cap, v in product(CAPS, single)]
    others = [
        *(_searched(each, (FP32, FP16), (each.norm,), CAPS[1]) for each in (_unet(), _volumes())),
        _searched(_recomputed(_unet()), (FP16,), (Norm.BATCH,), CAPS[1]),
        _searched(_segformer(), (FP16,), (Norm.BATCH,), CAPS[0]),
    ]
    return (*others, *matrices, *singles)


def tier_3_memory() -> tuple[Configuration, ...]:
    """Return trials of the memory of options that are off by default."""
    plain = Variant(model=RESNET101, resolution=HALF, precision=FP16)
    full = replace(plain, precision=FP32)
    expandable = (("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),)
    pair = (plain, full)
    changed = [
        *(_spec(replace(v, checkpointing=Checkpointing.ON), 4) for v in pair),
        *(_spec(replace(v, optimizer=OptimizerName.ADAMW), 4) for v in pair),
        *(replace(_spec(v, 2), accumulation_steps=3) for v in pair),
        *(replace(_spec(v, 2), validation=Validation(resolution=FULL)) for v in pair),
    ]
    # PyTorch caches the plan chosen without timing per convolution size, and reuses it with timing
    # (`benchmark_cache` in Conv_v8.cpp), so the two need separate processes.
    timed = [_spec(replace(v, cudnn_benchmark=CudnnBenchmark.ON), 4) for v in pair]
    return (
        *(Configuration(name=_name(each), spec=each, process="changed") for each in changed),
        *(Configuration(name=_name(each), spec=each, process="benchmark") for each in timed),
        *(
            Configuration(
                name=f"{_name(each)}-expandable",
                spec=each,
                process="expandable",
                environment=expandable,
            )
            for each in (_spec(v, 5) for v in pair)
        ),
    )


def tier_3_times() -> tuple[Configuration, ...]:
    """Return trials of images per second against the batch."""
    plain = Variant(model=RESNET101, resolution=HALF, precision=FP16)
    specs = [
        replace(_spec(variant, batch), warmup_steps=3, measured_steps=10)
        for variant, batch in product((plain, replace(plain, precision=FP32)), _TIMED_BATCHES)
    ]
    return tuple(
        Configuration(name=f"{_name(spec)}-timed", spec=spec, process="times", has_history=False)
        for spec in specs
    )


def tier_4() -> tuple[Configuration, ...]:
    """Return trials of other networks and losses: attention, transposed convolutions, AdamW.

    Those that differ most from earlier recordings come first. One of them needs `transformers`.
    """
    dice, volumes, segformer = _unet(), _volumes(), _segformer()
    squared = replace(dice, own=OwnParts(loss=f"{OWN}:squared_error"))
    vit = Variant(
        model="timm:vit_base_patch16_224",
        resolution=IMAGE,
        classes=1000,
        precision=FP16,
        optimizer=OptimizerName.ADAMW,
    )
    convnext = replace(vit, model="timm:convnext_tiny")
    many, few = 64, 4
    chosen = [
        *((_recomputed(each), 8) for each in (dice, replace(dice, precision=FP32))),
        *(
            (each, batch)
            for batch in (2, few)
            for each in (volumes, replace(volumes, precision=FP32))
        ),
        *((each, batch) for batch in (16, many) for each in (vit, replace(vit, precision=FP32))),
        *((each, batch) for batch in (few, 8) for each in (dice, replace(dice, precision=FP32))),
        *((each, few) for each in (squared, replace(squared, precision=FP32))),
        *((each, batch) for batch in (2, 6) for each in (segformer,)),
        (replace(segformer, precision=FP32), 2),
        *((each, many) for each in (convnext, replace(convnext, precision=FP32))),
        (replace(vit, precision=BF16), many),
    ]
    return tuple(
        Configuration(name=_name(spec), spec=spec, process="others")
        for spec in (_spec(variant, batch) for variant, batch in chosen)
    )


def _unet() -> Variant:
    own = OwnParts(loss=f"{OWN}:dice_and_cross_entropy")
    return Variant(model=f"{OWN}:UNet", resolution=CROPPED, precision=FP16, own=own)


def _volumes() -> Variant:
    unet = replace(_unet(), model=f"{OWN}:UNet3d", resolution=VOLUME)
    return replace(unet, norm=Norm.AS_BUILT, channels=1, classes=4)


def _segformer() -> Variant:
    return Variant(
        model=f"{OWN}:segformer",
        resolution=HALF,
        precision=FP16,
        optimizer=OptimizerName.ADAMW,
        own=OwnParts(loss=f"{OWN}:segformer_loss"),
    )


def _recomputed(variant: Variant) -> Variant:
    return replace(variant, checkpointing=Checkpointing.ON)


def rehearsed(stage: Stage) -> Stage:
    """Return the stage with a network that is small enough to test the recording."""
    changed = [
        replace(each, name=f"rehearsed-{each.name}", spec=replace(each.spec, variant=small))
        for each in stage.configurations
        for small in (
            replace(each.spec.variant, model=_SMALL, resolution=_SMALL_SIZE, own=NOTHING_OWN),
        )
    ]
    searches = [
        replace(
            each,
            name=f"rehearsed-{each.name}",
            variant=replace(each.variant, model=_SMALL, resolution=_SMALL_SEARCHED),
        )
        for each in stage.searches
    ]
    return replace(stage, configurations=tuple(changed), searches=tuple(searches))


def name_of(variant: Variant) -> str:
    """Return a variant's file name: model, size, precision, norm, layout, non-default options."""
    parts = [
        variant.model.replace(":", "-").replace("/", "-"),
        str(variant.resolution),
        variant.precision,
        variant.norm,
    ]
    if variant.own.own_loss is not None:
        parts.append(variant.own.own_loss.rpartition(":")[2])
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
    return Configuration(name=_name(spec), spec=spec, process="histories")


def _searched(
    variant: Variant,
    precisions: tuple[Precision, ...],
    norms: tuple[Norm, ...],
    limit_bytes: int,
) -> BoundarySearch:
    model = variant.model.replace(":", "-").replace("/", "-")
    parts = [model, str(variant.resolution), *precisions, *norms, variant.memory_format]
    if variant.checkpointing is Checkpointing.ON:
        parts.append("checkpointing")
    parts.append(f"{limit_bytes // GIB}gib")
    return BoundarySearch(
        name="-".join(parts),
        variant=variant,
        precisions=precisions,
        norms=norms,
        limit_bytes=limit_bytes,
    )


def _spec(variant: Variant, batch: int) -> TrialSpec:
    # Only two steps differ: the first one, and one with the optimizer's state allocated.
    return TrialSpec(variant=variant, batch_size=batch, warmup_steps=1, measured_steps=1)


def _name(spec: TrialSpec) -> str:
    parts = [name_of(spec.variant), f"b{spec.batch_size}"]
    if spec.accumulation_steps > 1:
        parts.append(f"x{spec.accumulation_steps}")
    if spec.validation is not None:
        parts.append(f"validated-{spec.validation.batch_size}x{spec.validation.resolution}")
    return "-".join(parts)
