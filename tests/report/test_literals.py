"""Values as Python: every text comes back, and none leaves its place."""

import ast
import math
from typing import Any

import pytest
from jinja2 import DictLoader

from bsprobe.report.snippet.literals import (
    comment,
    docstring,
    is_name,
    literal,
    rounded,
    templates,
)
from tests.support.hostile_code import TEXTS


@pytest.mark.parametrize("text", [*TEXTS, "", "ordinary", "it's", '"it\'s"'], ids=ascii)
def test_a_text_comes_back_from_its_literal_and_from_a_docstring(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text
    assert literal(text).isascii()
    assert literal(text)[0] == '"'
    for before in ("", "a "):
        source = f'"""{before}{docstring(text)}{docstring(text)}"""'
        assert ast.literal_eval(source) == before + text + text
        assert source.isprintable()


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_comment_stays_in_its_line(text: str) -> None:
    source = f"x = 1  # {comment(text)}\n"
    assert ast.dump(ast.parse(source)) == ast.dump(ast.parse("x = 1"))
    assert len(source.splitlines()) == 1
    source.encode()


def test_ordinary_text_is_not_changed() -> None:
    text = "net.py:build(name='x', width=3) at 512x1024, fp32 / größe"
    assert (docstring(text), comment(text)) == (text, text)
    assert literal("layer1.*") == '"layer1.*"'


@pytest.mark.parametrize(
    "value",
    [
        3,
        -3,
        0.1,
        1e300,
        5e-324,
        True,
        False,
        None,
        [1, "a"],
        (),
        ("a",),
        (1, (2, [])),
        {"a": [1.5]},
    ],
    ids=repr,
)
def test_a_value_comes_back_from_its_literal(value: Any) -> None:
    found = ast.literal_eval(literal(value))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, b"x", {1}, object(), [math.nan]])
def test_what_has_no_literal_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="no literal"):
        literal(value)


def test_a_rounded_number_has_six_digits_and_is_finite() -> None:
    assert [rounded(each) for each in (2.5e-4, 1 / 3, 8.0, 1e-9)] == [
        "0.00025",
        "0.333333",
        "8",
        "1e-09",
    ]
    with pytest.raises(ValueError, match="inf"):
        rounded(math.inf)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *[("image", True), ("größe", True), ("_", True), ("match", True)],
        *[("", False), ("a b", False), ("1a", False), ("class", False), ("None", False)],
        *[("__debug__", False), ("\ufb01", False), ("a=1, b", False), ("a\n", False)],
    ],
)
def test_a_name_can_be_an_attribute_and_an_argument(text: str, *, is_one: bool) -> None:
    assert is_name(text) is is_one
    if is_one:
        compile(f"f({text}=x.{text})", "", "eval")


@pytest.mark.parametrize("template", ["{{ text }}", "{{ 1 }}", "{{ text | upper }}", "{{ other }}"])
def test_a_template_writes_nothing_without_a_filter(template: str) -> None:
    made = templates(DictLoader({"one": template}))
    with pytest.raises(TypeError, match="without a filter"):
        made.get_template("one").render(text="import os")


def test_a_text_is_never_itself_a_template() -> None:
    made = templates(DictLoader({"one": "{{ text | comment }} {{ text | literal }}"}))
    assert made.get_template("one").render(text="{{ 1 }}") == '{{ 1 }} "{{ 1 }}"'
