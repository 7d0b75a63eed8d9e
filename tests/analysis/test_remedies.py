"""Remedies contain each change once, and never the variant itself."""

from dataclasses import replace

import pytest

from bsprobe.analysis.remedies import EXPANDABLE, ranked, remedies_for
from bsprobe.records.explanations import RemedyResult
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.trials import ModelFacts
from bsprobe.records.variants import (
    Checkpointing,
    CudnnBenchmark,
    LossAt,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)
from bsprobe.records.workload import OwnParts
from tests.support.explanations import REMEDIES, VARIANT


def test_every_change_that_may_help_is_tried_by_itself() -> None:
    found = remedies_for(VARIANT, None, None)
    assert [each.variant for each in found] == [
        replace(VARIANT, precision=Precision.AMP_FP16),
        replace(VARIANT, precision=Precision.AMP_BF16),
        replace(VARIANT, norm=Norm.GROUP_AMP),
        replace(VARIANT, norm=Norm.FROZEN),
        replace(VARIANT, checkpointing=Checkpointing.ON),
        replace(VARIANT, memory_format=MemoryFormat.NHWC),
        replace(VARIANT, optimizer=OptimizerName.ADAMW),
        replace(VARIANT, loss_at=LossAt.LOGITS),
        VARIANT,
        VARIANT,
    ]
    assert [each.environment for each in found] == [{}] * 8 + [EXPANDABLE, {}]
    assert [each.accumulation_steps for each in found] == [1] * 9 + [2]
    assert all(each.cost for each in found)
    assert [each.command for each in found][::4] == [
        "--precision amp-fp16",
        "--checkpointing on",
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    ]


@pytest.mark.parametrize(
    "variant",
    [
        replace(VARIANT, precision=Precision.AMP_FP16, norm=Norm.GROUP),
        replace(
            VARIANT,
            checkpointing=Checkpointing.ON,
            memory_format=MemoryFormat.NHWC,
            optimizer=OptimizerName.ADAMW,
            cudnn_benchmark=CudnnBenchmark.ON,
            loss_at=LossAt.LOGITS,
        ),
    ],
)
def test_what_is_so_already_is_no_remedy(variant: Variant) -> None:
    found = remedies_for(variant, None, None)
    assert [each for each in found[:-2] if each.variant == variant] == []
    assert len({each.variant for each in found[:-2]}) == len(found) - 2


def result(largest: int | None, peak: int | None = None, steps: int = 1) -> RemedyResult:
    boundary = None if largest is None else Boundary(stop=StopReason.PROVEN, largest=largest)
    return replace(REMEDIES[0], boundary=boundary, peak_bytes=peak, accumulation_steps=steps)


def test_the_best_change_comes_first_and_the_impossible_last() -> None:
    best, lean, fat, plain = result(9, 5), result(4, 3), result(4, 8), result(4, 8, steps=2)
    none, worst = result(None), result(1, 1)
    assert ranked([none, plain, worst, fat, best, lean]) == (best, lean, fat, plain, worst, none)


def test_user_supplied_parts_are_not_replaced() -> None:
    own = OwnParts(loss="m:loss", optimizer="m:adam")

    names = {each.name for each in remedies_for(replace(VARIANT, own=own), None, None)}

    every = {each.name for each in remedies_for(VARIANT, None, None)}
    assert every - names == {"adamw", "loss at logits"}


@pytest.mark.parametrize(
    ("capability", "fp16", "bf16"),
    [
        ((6, 1), "hardly faster", "slower"),
        ((7, 5), "faster", "slower"),
        ((8, 6), "faster", "faster"),
    ],
)
def test_half_precision_costs_what_it_costs_on_the_card(
    capability: tuple[int, int], fp16: str, bf16: str
) -> None:
    costs = {each.name: each.cost for each in remedies_for(VARIANT, None, capability)}
    assert costs["amp-fp16"].removeprefix("none: ").startswith(fp16)
    assert costs["amp-bf16"].removeprefix("none: ").startswith(bf16)


def test_accumulation_says_nothing_of_batch_norm_where_there_is_none() -> None:
    facts = ModelFacts(parameters=1, groups=(), batch_norms=0)
    assert "BatchNorm" in remedies_for(VARIANT, None, None)[-1].cost
    assert "BatchNorm" not in remedies_for(VARIANT, facts, None)[-1].cost
