"""Conversion of frozen dataclasses to JSON and back, with exact types.

No library is used, because bsprobe must run from a checkout on GPU machines that have PyTorch but
no package index, and their images contain no such library.
"""

import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


_MOST_VALUES = 2_000_000
"""The most values in a JSON text. The parser needs up to 100 bytes for each, also for the shortest;
the largest file that was ever written has 40 000."""


class MalformedError(ValueError):
    """A JSON value does not match its type; the message begins with the place."""


def parse_json(data: bytes | str) -> Any:
    """Parse JSON; duplicate fields are errors.

    Raises:
        MalformedError: The data is not JSON, is nested too deeply, has too many values, or has a
            duplicate field.
    """
    if _values_at_most(data) > _MOST_VALUES:
        raise MalformedError(f"it holds more than {_MOST_VALUES:,} values")
    try:
        return json.loads(data, object_pairs_hook=_distinct)
    except MalformedError:
        raise
    except json.JSONDecodeError as error:
        raise MalformedError(f"it is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError("it is not JSON") from error


def _values_at_most(data: bytes | str) -> int:
    """Return an upper bound of the number of values: each begins the text or follows a mark."""
    if isinstance(data, str):
        return 1 + sum(data.count(mark) for mark in "[{,")
    return 1 + sum(data.count(mark) for mark in (b"[", b"{", b","))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedError(f"duplicate field {reprlib.repr(key)}")
        found[key] = value
    return found


def to_text(value: Any) -> bytes:
    """Format a value as indented JSON for a file."""
    return (json.dumps(to_json(value), indent=1, allow_nan=False) + "\n").encode()


def to_json(value: Any) -> Any:
    """Convert dataclasses, enums, tuples and mappings to values for `json.dumps`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], value: Any, *, place: str = "$") -> T:
    """Convert parsed JSON to a type.

    Args:
        kind: The type: a dataclass, an enum, a tuple, an optional or a basic type.
        value: The parsed JSON.
        place: The place of the value in its file, for messages.

    Returns:
        An instance of the type.

    Raises:
        MalformedError: A field is unknown or missing, or a value is of another type.
    """
    return typing.cast("T", _decode(kind, value, place))


def _decode(kind: Any, value: Any, place: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_optional(kind, value, place)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, place)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type", kind), value, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            name = kind.__name__
            raise MalformedError(f"{place}: {reprlib.repr(value)} is not a valid {name}") from None
    if kind is float and type(value) in (int, float):
        return _decode_float(value, place)
    if type(value) is not kind:
        raise MalformedError(f"{place}: expected {kind.__name__}, found {_name(value)}")
    return value


def _decode_float(value: float, place: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise MalformedError(f"{place}: too large for a float") from None
    if not math.isfinite(number):  # Python's parser accepts NaN, Infinity and 1e999
        raise MalformedError(f"{place}: {number} is not a finite number")
    return number


def _decode_optional(kind: Any, value: Any, place: str) -> Any:
    """Decode `X | None`, the only union that records use."""
    if value is None:
        return None
    (inner,) = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
    return _decode(inner, value, place)


def _decode_tuple(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise MalformedError(f"{place}: expected a list, found {_name(value)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:  # noqa: PLR2004 - the two parts of tuple[X, ...]
        return tuple(_decode(kinds[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if len(value) != len(kinds):
        raise MalformedError(f"{place}: expected {len(kinds)} items, found {len(value)}")
    return tuple(
        _decode(kind, item, f"{place}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_dataclass(kind: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise MalformedError(f"{place}: expected an object, found {_name(value)}")
    hints, required = _fields(kind)
    if unknown := value.keys() - hints.keys():
        raise MalformedError(f"{place}: unknown field {reprlib.repr(min(unknown))}")
    if missing := required - value.keys():
        raise MalformedError(f"{place}: field '{min(missing)}' is missing")
    fields = {key: _decode(hints[key], item, f"{place}.{key}") for key, item in value.items()}
    try:
        return kind(**fields)
    except ValueError as error:  # from the record's __post_init__
        raise MalformedError(f"{place}: {error}") from error


@cache
def _fields(kind: type) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Return the types of a dataclass's fields, and the names of the required fields."""
    required = frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(kind), required


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
