"""Texts that act on terminals, browsers, spreadsheets and runners, and readers that find them."""

import csv
import io
import re
import unicodedata
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

_BY_DAY = (
    "\x1b]52;c;cm0gLXJm\x07 \x7f\u202egpj.exe\u2066 \x9b2J",
    "x\n::error::x",
    "##[error]x\x7f",
    "</details><script>alert(1)</script><img src=x onerror=alert(1)>",
    "a|b\\|c `a\\|b` *c* _d_ ~~e~~",
    "```\n",
    "[x](javascript:alert(1)) ![x](http://tracker) [y][z] &lt;",
    "=cmd|' /C calc'!A0",
    "\ud800 \udc9b \x00 \ufffe",
)
_BY_NIGHT = (
    "::add-mask::x",
    " \u200d:\u200d:stop-commands::x",
    "one\r\n\r\n# two\tthree\u2028four",
    "<!--",
    "<details>",
    "`",
    "[x]: http://tracker",
    "# x #",
    "1. x",
    "> x",
    "- x",
    "---",
    "===",
    "    x",
    "@SUM(1)",
    "\t=1+1",
    "$\\frac{",
    "$x$ \\$",
    "_x_ {{ }} {} %s %0A",
    "\\",
)
HOSTILE = (*_BY_DAY, *_BY_NIGHT)
TEXTS = (*_BY_DAY, *(pytest.param(text, marks=pytest.mark.nightly) for text in _BY_NIGHT))
"""The same as parameters of tests that render everything."""
_NO_TEXT = ("lr_rule", "compute_capability")
"""Fields of a fixed form; another text is an error."""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FOLDED = re.compile(r"<details><summary>[^<>\n]*</summary>\n?|</details>\n?")
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_HARMLESS = re.compile(r"[-+]?[\d.]+(e[-+]\d+)?|--[a-z][a-z-]*( [a-zN0-9-]+)*")
_ENTRY = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def with_text(record: Any, text: str) -> Any:
    """Return a record in which each text is another one."""
    if isinstance(record, Enum):
        return record
    if isinstance(record, str):
        return text
    if isinstance(record, tuple):
        return tuple(with_text(item, text) for item in record)
    if is_dataclass(record) and not isinstance(record, type):
        names = [field.name for field in fields(record) if field.name not in _NO_TEXT]
        return replace(record, **{name: with_text(getattr(record, name), text) for name in names})
    return record


def harmless(text: str) -> str:
    """Return a text that bsprobe takes for the same kind of name, with as many parts."""
    return re.sub(r"[^.:]+", "x", text)


def structure(text: str) -> list[Any]:
    """Return all of a markdown text but its words: blocks, emphasis, targets of links."""
    found: list[Any] = []
    for token in _ENTRY.parse(text):
        if token.type == "html_block":
            assert _FOLDED.fullmatch(token.content), token.content
        found += [(token.type, token.tag, token.level), *_inside(token.children or [])]
    return found


def _inside(tokens: list[Token]) -> list[Any]:
    words = ("text", "code_inline", "text_special", "softbreak")
    return [
        (token.type, token.attrs.get("href"), token.attrs.get("src"), _inside(token.children or []))
        for token in tokens
        if token.type not in words
    ]


def words_of(text: str) -> str:
    """Return the words that a markdown text shows."""
    found = (child for token in _ENTRY.parse(text) for child in token.children or [])
    return "".join(child.content for child in found)


@dataclass(frozen=True)
class Command:
    """A workflow command, as GitHub's runner takes it from a line."""

    name: str
    properties: str
    data: str


def commands_in(output: str) -> list[Command]:
    """Return the commands in the output of a step.

    Source:
        `TryParseV2` and `TryParse` in `src/Runner.Common/ActionCommand.cs` of
        github.com/actions/runner; its comparison of texts skips characters without a shape.
    """
    found = []
    for line in re.split(r"\r\n|\r|\n", output):
        shaped = "".join(c for c in line if unicodedata.category(c) not in ("Cf", "Mn", "Cc"))
        if new := re.match(r"\s*::(\S*?)( .*?)?::(.*)", shaped):
            found.append(Command(new[1], (new[2] or "").strip(), new[3]))
        elif old := re.search(r"##\[([^ \]]*)(.*?)\](.*)", shaped):
            found.append(Command(old[1], old[2], old[3]))
    return found


def cells_of(table: bytes) -> list[list[str]]:
    """Return the cells of a CSV file, none of which is a formula or holds control characters."""
    rows = list(csv.reader(io.StringIO(table.decode(), newline="")))
    for cell in (cell for row in rows for cell in row):
        assert not _FORMULA.match(cell) or _HARMLESS.fullmatch(cell), cell
        assert not CONTROL.search(cell.replace("\t", "")), cell
    return rows
