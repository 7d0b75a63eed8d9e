"""Text without control characters, and words quoted for a shell.

Records are read from files that others wrote, and paths may hold any bytes: an escape sequence in
either could act on a terminal, and a new line could add a sentence to a report.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Final

_UNPRINTABLE: Final = re.compile(
    "["
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: \x9b begins a sequence as ESC [ does
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction of text
    r"\u2028\u2029"  # separators of lines and paragraphs
    r"\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible
    r"\ud800-\udfff\ufffe\uffff"  # no characters; XML allows none of them
    "]"
)
_BREAKS: Final = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_FIRST_OF_BYTES: Final = 0xDC00
"""`surrogateescape` stores an undecodable byte as this code point plus the byte."""
_LAST_CONTROL: Final = 0xFF
_LAST_SHORT: Final = 0xFFFF
_NAMED: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def single_line(text: str) -> str:
    r"""Return a value in one line: breaks and tabs are spaces, control characters are escaped.

    Text without any of them is returned as it is.
    """
    return _UNPRINTABLE.sub(_escape, _BREAKS.sub(" ", text))


def printable(text: str) -> str:
    r"""Return text of several lines with its control characters escaped: ESC is `\x1b`.

    New lines stay, `\r` begins one as well, and a tab is four spaces.
    """
    lines = re.sub(r"\r\n?", "\n", text).replace("\t", " " * 4).split("\n")
    return "\n".join(_UNPRINTABLE.sub(_escape, line) for line in lines)


def shell_word(word: str) -> str:
    r"""Quote a word for a shell, in one line: `$'a\nb'` if it has control characters."""
    if not _UNPRINTABLE.search(word):
        return shlex.quote(word)
    quoted = word.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{_UNPRINTABLE.sub(_escape_for_shell, quoted)}'"


def shell_line(words: Iterable[str]) -> str:
    """Return words as one line for a shell, as `shlex.join` does but without control characters."""
    return " ".join(map(shell_word, words))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0x80 <= code - _FIRST_OF_BYTES <= _LAST_CONTROL:  # noqa: PLR2004 - the bytes beyond ASCII
        code -= _FIRST_OF_BYTES
    if code <= _LAST_CONTROL:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_SHORT else f"\\U{code:08x}"


def _escape_for_shell(found: re.Match[str]) -> str:
    if named := _NAMED.get(found[0]):
        return named
    # In a shell \x9b is a byte, but the character U+009B has two in UTF-8.
    return f"\\u{ord(found[0]):04x}" if "\x80" <= found[0] <= "\x9f" else _escape(found)
