"""Wrapping of errors and hints for a terminal."""

import re
import textwrap
from collections.abc import Iterator

_INDENT = " " * 6
_COLUMNS = 80
_LEAST_COLUMNS = 40
_COMMAND = re.compile(
    r"`((?:bsprobe|nvidia-smi|pip|python|torchrun)\b[^`]*)`"
    r"|(?<=: )((?:bsprobe|pip|python|torchrun) [^;`]*)"
)
"""A command within a hint: in backticks, or from a colon up to a semicolon or the end."""


def wrapped(label: str, text: str, columns: int) -> str:
    """Format an error or a hint for a terminal.

    A command stays on a line of its own, so that it can be copied.

    Args:
        label: Beginning of the first line, `error` or `hint`.
        text: The message, in one line.
        columns: Width of the terminal; lines have 40 to 80 columns.

    Returns:
        Lines without the last newline; those after the first are indented.
    """
    width = min(max(columns, _LEAST_COLUMNS), _COLUMNS)
    begin = f"{label}: "
    if len(begin) + len(text) <= width:
        return begin + text
    lines: list[str] = []
    for part, is_command in _parts(text):
        indent = _INDENT if lines else begin
        if is_command:
            lines.append(indent + part)
            continue
        lines += textwrap.wrap(
            part,
            width,
            initial_indent=indent,
            subsequent_indent=_INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Split into prose and commands; True marks a command."""
    end = 0
    for found in _COMMAND.finditer(text):
        if prose := text[end : found.start()].strip(" ,;"):
            yield prose, False
        yield (found[1] or found[2]).strip(), True
        end = found.end()
    if prose := text[end:].strip(" ,;"):
        yield prose, False
