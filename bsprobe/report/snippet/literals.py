"""Values as Python source: literals, names, comments and text of docstrings.

Values of a run file may be hostile, so no text enters the snippet but through these functions.
"""

import keyword
import math
import re
import unicodedata
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined

_ENDING_QUOTE = re.compile(r'"(?="|\Z)')
"""A quote that can end a docstring, together with what follows."""


class Code(str):
    """Python source, as opposed to text that has to be quoted."""

    __slots__ = ()


def code(source: str) -> Code:
    """Mark Python that was made without text from a run, or with literals of it."""
    return Code(source)


def literal(value: Any) -> Code:
    """Return a literal that evaluates to the value, in one line of ASCII.

    Args:
        value: A finite number, a bool, None, text, or a list, tuple or dict of them.

    Raises:
        ValueError: There is no literal of the value, as for infinity.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        entries = (f"{literal(key)}: {literal(each)}" for key, each in value.items())
        return Code(f"{{{', '.join(entries)}}}")
    if isinstance(value, list | tuple):
        items = ", ".join(map(literal, value))
        return Code(f"[{items}]" if isinstance(value, list) else f"({items},)" if value else "()")
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    if not is_number and value is not None and type(value) is not bool:
        raise ValueError(f"no literal of Python is {value!r}")
    return Code(repr(value))


def rounded(value: float) -> Code:
    """Return a number with six significant digits.

    Raises:
        ValueError: The number is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"no literal of Python is {value!r}")
    return Code(f"{value:.6g}")


def is_name(text: str) -> bool:
    """Return whether a text can be the name of an attribute and of a keyword argument.

    Python reads other forms of a letter as its ordinary form, which makes another name.
    """
    return (
        text.isidentifier()
        and not keyword.iskeyword(text)
        and text != "__debug__"
        and unicodedata.normalize("NFKC", text) == text
    )


def comment(text: str) -> Code:
    """Return text for a comment: whatever is not printed is escaped, so it stays in its line."""
    return Code("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))


def docstring(text: str) -> Code:
    r"""Return text for a part of a docstring, which it cannot end: `C:\new` is `C:\\new`."""
    return Code(_ENDING_QUOTE.sub(r"\\" + '"', comment(text.replace("\\", "\\\\"))))


def templates(loader: BaseLoader) -> Environment:
    """Return an environment for templates of Python, with the functions above as filters.

    Whatever a template writes must be the result of one of them.
    """
    environment = Environment(
        loader=loader,
        autoescape=False,  # noqa: S701 - Python, not HTML
        undefined=StrictUndefined,
        finalize=_source,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code,
        "comment": comment,
        "docstring": docstring,
        "literal": literal,
    }
    return environment


def _source(value: Any) -> Code:
    if not isinstance(value, Code):
        raise TypeError(f"a template writes a {type(value).__name__} without a filter")
    return value


def _text(text: str) -> Code:
    # `ascii` puts text with an apostrophe and without a quote into double quotes.
    pieces = (ascii(f"{piece}'")[1:-2] for piece in text.split('"'))
    return Code('"' + '\\"'.join(pieces) + '"')
