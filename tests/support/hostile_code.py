"""Texts that end a string, a comment, a line or a command, and their places in records."""

import ast
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

T = TypeVar("T")

TEXTS = (
    '"""\nimport os\n"""',
    '""',
    "'\nx=1",
    '"\nx = 1\n"',
    "'''",
    "\\",
    '\\"""',
    "C:\\new\\x1",
    "\\d\\",
    "\\N{BULLET}",
    "\x1b]52;c;cm0=\x07",
    "{{ 1 + 1 }}",
    "{% raw %}",
    "{# no #}",
    "\ud800",
    "\U0001f600",
    "\u202e",
    "a\u2028x = 1",
    "a\x0cx = 1",
    "a\x85x = 1",
    "#\rprint(1)",
    "-->",
    "\0",
    "a=print(1), b",
    "class",
    "__debug__",
    "\ufb01",
    "0",
    "$(id); rm x",
)
"""Hostile texts, and ordinary ones that are no names of Python."""
HARMLESS = "a harmless text"
"""As the hostile texts, it is no name of Python."""

VARIANT = "variant"
"""The first part of the places in a variant, which stands in a record several times."""
_START = re.compile(r'^ *("""|\w+|.?)', re.MULTILINE)

Path = tuple[str | int, ...]


def places(record: Any) -> Iterator[Path]:
    """Yield the place of every text in a record, also where None or an empty tuple stands."""
    for field in dataclasses.fields(record):
        kind = _hints(type(record))[field.name]
        yield from _places(kind, getattr(record, field.name), (field.name,))


def with_text(record: Any, place: Path, text: str) -> Any:
    """Return the record with a text in a place.

    Raises:
        ValueError: The record refuses the text.
    """
    name, *rest = str(place[0]), *place[1:]
    changed = _changed(_hints(type(record))[name], getattr(record, name), rest, text)
    return replace(record, **{name: changed})


def require_same_code(render: Callable[[T], str], record: T, variant: Any, share: int) -> set[Path]:
    """Require that the texts of a record change nothing in Python made from it but constants.

    A record may refuse a text.

    Args:
        render: Makes the Python.
        record: The record.
        variant: The variant in the record.
        share: Of so many texts one is tried in each place.

    Returns:
        The places whose texts reach the Python.
    """
    reached: set[Path] = set()
    ordinary = render(record)
    for place in _all_places(record, variant):
        if _rendered(render, record, variant, place, "".join(TEXTS)) in (None, ordinary):
            continue
        harmless = _rendered(render, record, variant, place, HARMLESS)
        assert harmless is not None
        reached.add(place)
        wanted = _shape(harmless)
        for text in TEXTS[len(reached) % share :: share]:
            found = _rendered(render, record, variant, place, text)
            if found is not None:
                assert _shape(found) == wanted, (place, text)
                assert found.replace("\n", "").isprintable(), (place, text)
                found.encode()
    return reached


def _all_places(record: Any, variant: Any) -> list[Path]:
    outside = [place for place in places(record) if not {"variant", "variants"} & set(place)]
    return outside + [(VARIANT, *place) for place in places(variant)]


def _rendered(
    render: Callable[[T], str], record: T, variant: Any, place: Path, text: str
) -> str | None:
    try:
        if place[0] == VARIANT:
            changed = exchanged(record, variant, with_text(variant, place[1:], text))
        else:
            changed = with_text(record, place, text)
    except ValueError:
        return None
    return render(changed)


def _shape(text: str) -> tuple[str, list[str]]:
    """The tree of a program without its constants, and the beginning of each line."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = type(node.value).__name__
    return ast.dump(tree), _START.findall(text)


def exchanged(record: T, old: Any, new: Any) -> T:
    """Return the record with each value that equals another one exchanged."""

    def walk(value: Any) -> Any:
        if value == old and type(value) is type(old):
            return new
        if isinstance(value, tuple):
            return tuple(map(walk, value))
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return value
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return replace(value, **{name: walk(each) for name, each in fields.items()})

    return typing.cast("T", walk(record))


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _inner(kind: Any) -> Any:
    """The type without `| None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = [each for each in typing.get_args(kind) if each is not types.NoneType]
    return kind


def _places(kind: Any, value: Any, place: Path) -> Iterator[Path]:
    kind = _inner(kind)
    if kind is str:
        yield place
    elif typing.get_origin(kind) is tuple:
        for index, each in enumerate(_items(kind, value)):
            yield from _places(_item(kind, index), each, (*place, index))
    elif dataclasses.is_dataclass(value):
        for rest in places(value):
            yield (*place, *rest)


def _changed(kind: Any, value: Any, place: list[str | int], text: str) -> Any:
    kind = _inner(kind)
    if not place:
        return text
    first, *rest = place
    if typing.get_origin(kind) is not tuple:
        return with_text(value, tuple(place), text)
    items = list(_items(kind, value))
    at = int(first)
    items[at] = _changed(_item(kind, at), items[at], rest, text)
    return tuple(items)


def _items(kind: Any, value: Any) -> tuple[Any, ...]:
    """The items of a tuple; of an empty one of texts or of pairs with a text, an invented one."""
    made = _invented(_item(kind, 0))
    return tuple(value or (() if made is None else (made,)))


def _invented(kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        parts = tuple(map(_invented, typing.get_args(kind)))
        return None if None in parts else parts
    invented: dict[Any, Callable[[], Any]] = {str: lambda: HARMLESS, float: lambda: 1.0}
    return invented[kind]() if kind in invented else None


def _item(kind: Any, index: int) -> Any:
    kinds = typing.get_args(kind)
    return kinds[0] if kinds[-1] is Ellipsis else kinds[index]
