"""Escaping of text by output format, so that a text is only ever shown as itself.

Names, messages and paths come from files and programs of others. The formats:

- `terminal` for what is printed.
- Markdown: `paragraph` at the beginning of a block, `inline` within a line or a cell of a table,
  `code_span` and `code_cell` for code, `html` for parts that are HTML.
- `csv_cell` for CSV, `json_text` for printed JSON.
- `command_data` and `command_property` for GitHub's workflow commands.

Renderers begin with `cleaned`, which removes control characters from a whole record.
"""

import dataclasses
import html as html_library
import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, TypeVar, cast

from bsprobe.records.printable import printable, single_line
from bsprobe.records.scripts import Script

T = TypeVar("T")

_OF_SEVERAL_LINES: Final = ("traceback",)
"""Fields of records whose new lines stay."""


def cleaned(record: T) -> T:
    """Return a record whose texts have no control characters; tracebacks keep their new lines.

    The words of a user's command are left as they are, because its text quotes them for a shell.

    Args:
        record: A dataclass, or a tuple, list or mapping of them. Enums stay as they are.

    Returns:
        The same object if nothing has to be replaced.
    """
    return cast("T", _cleaned(record))


def _cleaned(value: Any) -> Any:
    if isinstance(value, Enum | Script):
        return value
    if isinstance(value, str):
        return single_line(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _cleaned_fields(value)
    if isinstance(value, tuple | list):
        items = [_cleaned(item) for item in value]
        is_same = all(one is other for one, other in zip(items, value, strict=True))
        return value if is_same else type(value)(items)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return value


def _cleaned_fields(record: Any) -> Any:
    changes = {}
    for field in dataclasses.fields(record):
        old = getattr(record, field.name)
        is_block = field.name in _OF_SEVERAL_LINES and isinstance(old, str)
        new = printable(old) if is_block else _cleaned(old)
        if new != old if isinstance(old, str) else new is not old:
            changes[field.name] = new
    return dataclasses.replace(record, **changes) if changes else record


_IGNORED = (
    r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u3164\ufe00-\ufe0f\uffa0"
    r"\U000e0100-\U000e01ef]"
)
"""Characters without a shape: .NET's comparison of texts skips them."""
_NEW_COMMAND = re.compile(rf"^((?:[^\S\n]|{_IGNORED})*):(?={_IGNORED}*:)", re.MULTILINE)
_OLD_COMMAND = re.compile(rf"(#{_IGNORED}*)#(?={_IGNORED}*\[)")


def terminal(text: str, encoding: str | None) -> str:
    r"""Return printed text with what a terminal or a GitHub runner would act on escaped.

    New lines stay. Characters that the encoding lacks are escaped as well.

    Args:
        text: The lines to print.
        encoding: The encoding of the stream; None for UTF-8.
    """
    return encodable(without_commands(printable(text)), encoding)


def encodable(text: str, encoding: str | None) -> str:
    """Return text with the characters that an encoding lacks escaped; None stands for UTF-8."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def without_commands(text: str) -> str:
    r"""Return text in which no line is a workflow command: `::error::` becomes `\x3a:error::`.

    A runner reads all output of a step. A line is a command if it begins with `::` after white
    space, or has `##[` anywhere.

    Source:
        `TryParseV2` and `TryParse` in `src/Runner.Common/ActionCommand.cs` of
        github.com/actions/runner.
    """
    return _OLD_COMMAND.sub(r"\1\\x23", _NEW_COMMAND.sub(r"\1\\x3a", text))


def command_data(text: str) -> str:
    """Return the text of a workflow command, escaped.

    Source:
        `_escapeDataMappings` in `ActionCommand.cs`, as above.
    """
    line = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return single_line(line)


def command_property(text: str) -> str:
    """Return a property of a workflow command, such as its title, escaped.

    Source:
        `_escapePropertyMappings` in `ActionCommand.cs`, as above.
    """
    return command_data(text).replace(":", "%3A").replace(",", "%2C")


_MARKS = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"  # a whole code span, which stays
    r"|`|\||\\(?=[!-/:-@\[-`{-~]|$)"  # a backslash that would escape the next character
    r"|<(?=[A-Za-z/!?]|$)|&(?=#?\w+;)"  # HTML, links in angle brackets, entities
    r"|^\[|\[(?=\^)|\](?=[(\[]|$)"  # links and their definitions, footnotes
    r"|(?<=\s)#(?=#*$)"  # the end of a heading
    # Emphasis, but for marks between spaces and for underscores inside of words.
    r"|(?<![\s*])\*++|(?<!\*)\*++(?!\s)|(?<![\s~])~++|(?<!~)~++(?!\s)|(?<!\w)_++|(?<!_)_++(?!\w)"
)
"""The characters of a line that markdown would act on (CommonMark 0.31 and GitHub's tables)."""
_BLOCK = re.compile(
    r"^(\d{1,9}(?=[.)](?:\s|$))"  # a numbered list; the others have no text before the mark
    r"|(?=#{1,6}(?:\s|$)|>|[-+](?:\s|$)|-[-\s]*-[-\s]*$|=+\s*$))"
)
"""The beginning of a heading, a quote, a list, or a line below a heading."""


_ROUND = str.maketrans("[]", "()")


class Markdown(str):
    """Text that is markdown already, so that a table does not escape it."""

    __slots__ = ()


def paragraph(text: str) -> str:
    """Return text as one line of markdown that shows it, at the beginning of a block or within.

    Only what markdown would act on is escaped. Whole code spans stay.
    """
    return _BLOCK.sub(r"\1\\", _escaped(single_line(text).strip()))


def inline(text: str) -> Markdown:
    """Return text as a cell of a table, or after other text of a line."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_escaped(single_line(text).strip(), within_code=r"\|"))


def picture_name(text: str) -> str:
    """Return text as the name of a picture or a link, in which brackets would end it."""
    return inline(text.translate(_ROUND))


def code_span(text: str) -> str:
    """Return text as a code span that it cannot end; empty for an empty text."""
    line = single_line(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}" if line else ""


def code_cell(text: str) -> Markdown:
    r"""Return text as a code span in a cell of a table.

    Parsers disagree on `\|` within code, so a text with it is shown without a code span.
    """
    if r"\|" in text:
        return inline(text)
    return Markdown(code_span(text).replace("|", r"\|"))


def html(text: str) -> str:
    """Return text for an element of HTML, in one line."""
    return html_library.escape(single_line(text), quote=False)


def _escaped(line: str, *, within_code: str = "|") -> str:
    def escape(found: re.Match[str]) -> str:
        code = found["code"]
        if code is None:
            return "".join(f"\\{mark}" for mark in found[0])
        if r"\|" in code:  # as in `code_cell`
            return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", code)
        return code.replace("|", within_code)

    return _MARKS.sub(escape, line)


_FORMULA = re.compile("[=+\\-@\t\n＝＋－＠]")  # noqa: RUF001 - the wide ones begin formulas too
_HARMLESS = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|--[a-z][a-z-]*( [\w.-]+)*")
"""Numbers, and options of a command: they call nothing and refer to no program."""


def json_text(value: Any) -> str:
    """Return a JSON value as text that `terminal` leaves as it is."""
    text = json.dumps(value, indent=1, allow_nan=False)
    return text.replace("\x7f", "\\u007f").replace("##[", "#\\u0023[")


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file; a quote is put before text that begins a formula.

    Numbers stay as they are, as does text that is a number or an option. New lines stay, as CSV
    quotes them.

    Source:
        OWASP, "CSV Injection", for the characters.
    """
    if not isinstance(value, str):
        return value
    text = "\t".join(map(printable, str(value).split("\t")))
    is_formula = _FORMULA.match(text) and not _HARMLESS.fullmatch(text)
    return f"'{text}" if is_formula else text
