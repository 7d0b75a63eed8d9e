"""Changes that may help when the next batch does not fit, each with its cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from bsprobe.records.explanations import RemedyResult
from bsprobe.records.gpus import FIRST_WITH_TENSOR_CORES
from bsprobe.records.trials import ModelFacts
from bsprobe.records.variants import (
    AXES,
    Checkpointing,
    CudnnBenchmark,
    LossAt,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)

EXPANDABLE: Final = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""PyTorch's own setting; the name of the variable that every version reads."""
_FASTER = "none: faster on tensor cores; it trains in half precision"
_COSTS: dict[str, dict[StrEnum, str]] = {
    "precision": {
        Precision.FP32: "slower: no half precision",
        Precision.AMP_FP16: f"{_FASTER}, with a GradScaler",
        Precision.AMP_BF16: _FASTER,
    },
    "norm": {
        Norm.GROUP_AMP: "another model: GroupNorm, kept in half precision under AMP",
        Norm.FROZEN: "another model: statistics stay those of the weights it starts from",
    },
    "checkpointing": {Checkpointing.ON: "slower: every block runs forward twice"},
    "memory_format": {
        MemoryFormat.NHWC: "none: often faster in half precision",
        MemoryFormat.NCHW: "none",
    },
    "optimizer": {
        OptimizerName.SGD: "another recipe: learning rate and schedule",
        OptimizerName.ADAMW: "another recipe: learning rate and schedule",
    },
    "loss_at": {LossAt.LOGITS: "another recipe: labels are thinned out to the logits"},
    "cudnn_benchmark": {CudnnBenchmark.OFF: "slower: not the fastest algorithms"},
}
"""By axis the values that are worth a try, and what is paid for them on most cards."""
_WITHOUT_TENSOR_CORES = "none: hardly faster without tensor cores; it trains in half precision"
_FIRST_WITH_BF16 = (8, 0)
"""Older cards have no bfloat16 of their own; PyTorch runs it slowly there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One change of a variant, or of how it is run."""

    name: str
    command: str
    """Words to add to a command line, or to put before it."""
    cost: str
    variant: Variant
    """With the change."""
    accumulation_steps: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to run under."""


def remedies_for(
    variant: Variant, model: ModelFacts | None, capability: tuple[int, int] | None
) -> tuple[Remedy, ...]:
    """Every change that is worth a try; which of them helps is for the simulation to say.

    Args:
        variant: What is trained.
        model: Facts of its network; None where they are not known.
        capability: Compute capability of the card; None where it is not known.
    """
    has_statistics = model is None or model.batch_norms != 0
    seen = "BatchNorm sees one micro-batch; " if has_statistics else ""
    return (
        *_settings(variant, capability),
        Remedy(
            name="expandable segments",
            command=" ".join(f"{name}={value}" for name, value in EXPANDABLE.items()),
            cost="none",
            variant=variant,
            environment=EXPANDABLE,
        ),
        Remedy(
            name="accumulation",
            command="--target-batch N",
            cost=f"{seen}gradients are held throughout",
            variant=variant,
            accumulation_steps=2,
        ),
    )


def ranked(results: list[RemedyResult]) -> tuple[RemedyResult, ...]:
    """Best first: the largest batch, then the smallest peak; what is impossible comes last.

    Accumulation stands behind what enlarges the micro-batch by as much: it saves no memory.
    """

    def merit(result: RemedyResult) -> tuple[bool, int, bool, int]:
        is_accumulated = result.accumulation_steps > 1
        return (
            result.boundary is None,
            -result.largest,
            is_accumulated,
            result.peak_bytes or 0,
        )

    return tuple(sorted(results, key=merit))


def _settings(variant: Variant, capability: tuple[int, int] | None) -> Iterator[Remedy]:
    """One axis changed at a time."""
    decided = {"optimizer": variant.own.optimizer, "loss_at": variant.own.own_loss}
    for axis in AXES:
        if decided.get(axis.field) is not None:  # by a part of the user's own
            continue
        for value, cost in _COSTS.get(axis.field, {}).items():
            if value != getattr(variant, axis.field):
                yield Remedy(
                    name=axis.label_prefix + str(value),
                    command=f"{axis.option} {value}",
                    cost=_cost_on(capability, value, cost),
                    variant=replace(variant, **{axis.field: value}),  # type: ignore[arg-type] # each axis names the field of its own kind
                )


def _cost_on(capability: tuple[int, int] | None, value: StrEnum, cost: str) -> str:
    """The cost of a setting on a card: half precision is not equally fast on all."""
    if capability is None or not isinstance(value, Precision) or value is Precision.FP32:
        return cost
    if value is Precision.AMP_BF16 and capability < _FIRST_WITH_BF16:
        return "slower: bfloat16 is slow below compute capability 8.0"
    if capability < FIRST_WITH_TENSOR_CORES:
        return cost.replace(_FASTER, _WITHOUT_TENSOR_CORES)
    return cost
