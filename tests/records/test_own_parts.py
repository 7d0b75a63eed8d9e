"""Tests of the user-supplied parts of a workload and of loop habits."""

import math

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
from bsprobe.records.workload import NOTHING_OWN, OwnParts, split_path, value_of
from bsprobe.storage.codec import from_json, parse_json, to_text
from tests.support.hostile_code import TEXTS


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
        ("9" * 5000, "9" * 5000),
        ("1e999", math.inf),
        ("[-1e999]", [-math.inf]),
        *[(text, text) for text in ("inf", "nan", "float('inf')", "C:\\new\\x1", "{[]: 1}")],
        *[(text, text) for text in ("\ud800", "'\ud800'", "\0", "f'{1}'", "__import__('os')")],
        ("'\\d'", "\\d"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_value_is_a_literal_of_python_or_json_else_text(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_arguments_are_stored_as_typed(text: str) -> None:
    own = OwnParts(model_args=(("name", text), ("clip", "1e999")), batches=f"{text}.py:batch")
    assert from_json(OwnParts, parse_json(to_text(own))) == own


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("package.module:Class.method", "package.module", "Class.method"),
        ("C:\\nets\\unet.py:build", "C:\\nets\\unet.py", "build"),
        ("a:b/unet.py:build", "a:b/unet.py", "build"),
        ("unet.py", "unet.py", ""),
        ("unet.py:", "unet.py", ""),
        (":build", "", "build"),
    ],
)
def test_an_import_path_is_split_at_its_last_colon(name: str, where: str, what: str) -> None:
    assert split_path(name) == (where, what)


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
