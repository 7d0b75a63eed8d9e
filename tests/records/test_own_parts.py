"""Tests of the user-supplied parts of a workload and of loop habits."""

import pytest

from bsprobe.records.habits import (
    COMMONEST,
    BatchPlace,
    Gradients,
    Habits,
    Outputs,
    ZeroGrad,
    parsed_habits,
)
from bsprobe.records.workload import NOTHING_OWN, OwnParts, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("[3, 4, 6]", [3, 4, 6]),
        ("(2,)", (2,)),
        ("True", True),
        ("true", True),
        ("None", None),
        ("null", None),
        ('{"a": false}', {"a": False}),
        ("'3'", "3"),
        ("resnet50", "resnet50"),
        ("", ""),
        ("a b", "a b"),
        ("(" * 5000, "(" * 5000),
    ],
)
def test_a_value_is_a_literal_of_python_or_json_else_text(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_the_options_are_the_equivalent_command_line() -> None:
    own = OwnParts(
        model_args=(("a", "1"), ("b", "x y")),
        loss="m:loss",
        optimizer="m:adam",
        batches="m:batch",
        batches_seen=3,
        habits=Habits(zero_grad=ZeroGrad.START, gradients=Gradients.ZERO),
        checkpoint_blocks="a*,b",
    )

    assert own.options() == [
        "--model-arg", "a=1", "--model-arg", "b=x y", "--loss", "m:loss",
        "--optimizer-from", "m:adam", "--batch-from", "m:batch", "--checkpoint-blocks", "a*,b",
        "--batches-seen", "3", "--loop", "zero-grad=start,gradients=zero",
    ]  # fmt: skip
    assert NOTHING_OWN.options() == []


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        (NOTHING_OWN, False),
        (OwnParts(model_args=(("a", "1"),), loss="image-cross-entropy"), False),
        (OwnParts(loss="m:loss"), True),
        (OwnParts(optimizer="m:adam"), True),
        (OwnParts(batches="m:batch"), True),
    ],
)
def test_only_a_user_supplied_loss_optimizer_or_batch_changes_the_step(
    own: OwnParts, *, changes: bool
) -> None:
    assert own.changes_the_step is changes


EVERY_HABIT = [
    Habits(zero_grad=place, gradients=gradients, batch=batch, outputs=outputs)
    for place in ZeroGrad
    for gradients in Gradients
    for batch in BatchPlace
    for outputs in Outputs
]


@pytest.mark.parametrize("habits", EVERY_HABIT[1:], ids=str)
def test_habits_are_read_as_they_are_written(habits: Habits) -> None:
    assert str(habits) == "" if habits == COMMONEST else parsed_habits(str(habits)) == habits
