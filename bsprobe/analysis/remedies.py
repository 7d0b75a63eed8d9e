"""Changes that may allow a larger batch, each with its cost."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from bsprobe.records.assumptions import Assumption
from bsprobe.records.explanations import NEGLIGIBLE_SHARE, Explanation, RemedyResult
from bsprobe.records.gpus import FIRST_WITH_TENSOR_CORES
from bsprobe.records.runs import Boundary
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
"""PyTorch's setting, by the variable that all its versions read."""
_FASTER = "none: faster on tensor cores; it trains in half precision"
_COSTS: dict[str, dict[StrEnum, str]] = {
    "precision": {
        Precision.FP32: "slower: no half precision",
        Precision.AMP_FP16: f"{_FASTER}, with a GradScaler",
        Precision.AMP_BF16: _FASTER,
    },
    "norm": {
        Norm.GROUP_AMP: "another model: GroupNorm, kept in half precision under AMP",
        Norm.FROZEN: "another model: its statistics stay those of the initial weights",
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
"""The values of each axis that may help, and their cost on most cards."""
_WITHOUT_TENSOR_CORES = "none: hardly faster without tensor cores; it trains in half precision"
_FIRST_WITH_BF16 = (8, 0)
"""Older cards do not support bfloat16; PyTorch runs it slowly there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One change of a variant or of its environment."""

    name: str
    command: str
    """Options to add to the command, or variables to put before it."""
    cost: str
    variant: Variant
    """The variant with the change."""
    accumulation_steps: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables to run with."""


def remedies_for(
    variant: Variant, model: ModelFacts | None, capability: tuple[int, int] | None
) -> tuple[Remedy, ...]:
    """Return all changes to simulate; none if memory grows in every step, which no setting stops.

    Args:
        variant: The variant to change.
        model: Facts of its network; None if they are not known.
        capability: Compute capability of the card; None if it is not known.
    """
    if model is not None and Assumption.STILL_GROWING in model.assumptions:
        return ()
    has_statistics = model is None or model.batch_norms != 0
    seen = "BatchNorm normalises one micro-batch; " if has_statistics else ""
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
            cost=f"{seen}gradients stay allocated",
            variant=variant,
            accumulation_steps=2,
        ),
    )


def ranked(results: list[RemedyResult]) -> tuple[RemedyResult, ...]:
    """Return results by the largest batch, then by the smallest peak; impossible ones last.

    Accumulation comes after changes that enlarge the micro-batch as much: it saves no memory.
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


def brings_something(result: RemedyResult, found: Explanation, before: Boundary) -> bool:
    """Return whether a change allows a larger batch, or takes less memory at the explained one.

    Accumulation allows any effective batch if it runs.

    Args:
        result: The effect of the change.
        found: The explanation without the change.
        before: The boundary without the change.
    """
    if result.accumulation_steps > 1:
        return result.largest > 0
    saves = (
        result.peak_bytes is not None
        and result.peak_bytes < (1 - NEGLIGIBLE_SHARE) * found.peak_bytes
    )
    return result.largest > (before.largest or 0) or saves


def _settings(variant: Variant, capability: tuple[int, int] | None) -> Iterator[Remedy]:
    """One axis changed at a time."""
    decided = {"optimizer": variant.own.optimizer, "loss_at": variant.own.own_loss}
    for axis in AXES:
        if decided.get(axis.field) is not None:  # by a user-supplied part
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
    """The cost of a setting on a card: the speed of half precision depends on the card."""
    if capability is None or not isinstance(value, Precision) or value is Precision.FP32:
        return cost
    if value is Precision.AMP_BF16 and capability < _FIRST_WITH_BF16:
        return "slower: bfloat16 is slow below compute capability 8.0"
    if capability < FIRST_WITH_TENSOR_CORES:
        return cost.replace(_FASTER, _WITHOUT_TENSOR_CORES)
    return cost
