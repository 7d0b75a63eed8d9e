"""Edits of one value of parsed JSON."""

from copy import deepcopy
from typing import Any


def edited(value: Any, place: str, new: object) -> Any:
    """Return a copy of parsed JSON with another value at a place such as `trials.0.source`."""
    copy, last = deepcopy(value), place.rpartition(".")[2]
    _parent(copy, place)[_key(last)] = new
    return copy


def deleted(value: Any, place: str) -> Any:
    """Return a copy of parsed JSON without the value at a place."""
    copy, last = deepcopy(value), place.rpartition(".")[2]
    del _parent(copy, place)[_key(last)]
    return copy


def _parent(value: Any, place: str) -> Any:
    for part in place.split(".")[:-1]:
        value = value[_key(part)]
    return value


def _key(part: str) -> str | int:
    return int(part) if part.isdecimal() else part
