"""Columns and sentences of the terminal."""

from dataclasses import replace

import pytest

from bsprobe.analysis.recommendation import plan
from bsprobe.records.runs import Target
from bsprobe.records.variants import OptimizerName
from bsprobe.records.workload import OwnParts
from bsprobe.report.run import legend, sentences
from bsprobe.report.run import plan as dry_run
from bsprobe.report.run.terminal import WIDTH, fitted
from tests.support.builders import DEVICE, VARIANT, settings


def test_a_name_that_is_too_long_for_the_width_goes_on_below() -> None:
    name = "* fp32 / batch / checkpointing on / nhwc / adamw / loss at logits"
    figures = ("1234567890123456789", "12345678901234567890")
    assert fitted([("", "largest", "use"), (name, *figures), ("  short", "1", "2")]) == [
        f"{'largest':>56}{'use':>22}",
        (
            "* fp32 / batch / checkpointing on /  1234567890123456789  12345678901234567890\n"
            "  nhwc / adamw / loss at logits"
        ),
        f"  short{'1':>49}{'2':>22}",
    ]


def test_a_table_that_fits_is_left_alone() -> None:
    rows = fitted([("", "largest"), ("  a name of some length", "1")])
    assert rows == [f"{'largest':>32}", f"  a name of some length{'1':>9}"]
    assert max(map(len, rows)) < WIDTH


def test_the_rate_of_a_user_supplied_optimizer_is_a_factor() -> None:
    target = Target(batch=20, base_batch=10, base_learning_rate=2.5e-4)
    scaled = plan(VARIANT, target, micro_batch=4, steps=5, groups={})
    own = replace(VARIANT, own=OwnParts(optimizer="m:adam"))
    assert sentences.rate_words(scaled, VARIANT, target) == "5.00e-04"
    assert sentences.rate_words(scaled, own, target) == "x 2.00"


@pytest.mark.parametrize(
    ("optimizer", "whole", "short"),
    [
        (OptimizerName.SGD, "lr * (80 / your batch)", "x 80/b"),
        (OptimizerName.ADAMW, "lr * sqrt(80 / your batch)", "x sqrt(80/b)"),
    ],
)
def test_an_unknown_rate_is_a_factor_of_the_users_rate(
    optimizer: OptimizerName, whole: str, short: str
) -> None:
    variant = replace(VARIANT, model="unet.py:build", optimizer=optimizer)
    made = plan(variant, Target(), micro_batch=80, steps=1, groups={})
    assert sentences.rate_words(made, variant, Target()) == whole
    assert sentences.short_rate_words(made, variant, Target()) == short


def test_the_options_that_bring_a_rate_and_accumulation_are_named_where_there_is_neither() -> None:
    other = settings(replace(VARIANT, model="unet.py:build"))
    told = " ".join(legend.about_recipe(other))
    assert all(option in told for option in ("--base-lr", "--base-batch", "--target-batch"))
    (by_recipe,) = legend.about_recipe(settings())
    assert "DeepLabV2" in by_recipe
    given = Target(batch=8, base_batch=4, base_learning_rate=0.1)
    assert legend.about_recipe(settings(target=given)) == []


def test_blocks_that_are_named_are_told() -> None:
    asked = settings(replace(VARIANT, own=OwnParts(checkpoint_blocks="down*")))
    assert sentences.subject_line(asked.variants).endswith(" · recomputing down*")
    assert "\nrecomputing down*\n" in dry_run.render(asked, None, DEVICE)
