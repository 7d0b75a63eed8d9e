"""Damage to JSON files, as caused by disks, editors, other programs and other versions."""

import json
import random
from collections.abc import Callable
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**6, 2**63, 10**400, 0.0, -0.5, 0.5, 1e308, float("nan"),
    float("inf"), "", "zzz", "a|b\n#", [], {}, [[]], {"a": 1}, [0] * 1000,
)  # fmt: skip
_BYTES = (
    b"", b"0", b"9" * 5000, b'"', b"}", b"]", b"NaN", b"-Infinity", b"1e999", b"null", b"\x00",
    b"\xff\xfe", b"\\ud800", b"[" * 5000,
)  # fmt: skip


def mutated(data: bytes, seed: int) -> bytes:
    """Return a damaged copy of a JSON document; seeds cycle through the kinds of damage."""
    chance = random.Random(seed)
    return KINDS[seed % len(KINDS)](data, chance)


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _flipped(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 10))):
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _overwritten(data: bytes, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(data)), chance.choice((1, 1, 10, 1000))
    source = chance.randrange(len(data))
    piece = chance.choice((*_BYTES, data[source : source + length]))
    return data[:start] + piece + data[start + length :]


def _with_junk_inside(data: bytes, chance: random.Random) -> bytes:
    """Replace a value by one of another type or size."""
    return json.dumps(_replaced(json.loads(data), chance, lambda _: chance.choice(JUNK))).encode()


def _nested(data: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((10, 900))
    marked = json.dumps(_replaced(json.loads(data), chance, lambda _: "@HERE@"))
    return marked.replace('"@HERE@"', "[" * depth + "]" * depth, 1).encode()


def _changed_number(data: bytes, chance: random.Random) -> bytes:
    """Replace a number by one that contradicts the others or is out of range."""

    def change(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return chance.choice(JUNK)
        return chance.choice((0, -value, value * 10**6, value + 1, value - 1, value // 2))

    return json.dumps(_replaced(json.loads(data), chance, change)).encode()


def _with_duplicate(data: bytes, chance: random.Random) -> bytes:
    """Duplicate an item of a list, or a key of an object with another value."""
    value = json.loads(data)
    if chance.random() < 0.5:

        def twice(item: Any) -> Any:
            return [item, item]

        return json.dumps(_replaced(value, chance, twice)).encode()
    text = json.dumps(value)
    keys = [place for place in range(len(text)) if text.startswith('": ', place)]
    start = text.rindex('"', 0, chance.choice(keys)) if keys else 0
    key = text[start : text.index('":', start) + 2]
    return (text[:start] + f"{key} {json.dumps(chance.choice(JUNK))}, " + text[start:]).encode()


def _with_dropped_or_foreign_field(data: bytes, chance: random.Random) -> bytes:
    def change(item: Any) -> Any:
        return {**item, "zzz": 1} if isinstance(item, dict) else chance.choice(JUNK)

    value = json.loads(data)
    if chance.random() < 0.5:
        return json.dumps(_replaced(value, chance, change, stop_early=0.3)).encode()
    return json.dumps(_dropped(value, chance)).encode()


def _of_another_version(data: bytes, chance: random.Random) -> bytes:
    value = json.loads(data)
    if isinstance(value, dict):
        value["schema_version"] = chance.choice((0, 2, "1", None, 1.0, True, [1]))
    return json.dumps(value).encode()


def _replaced(
    value: Any,
    chance: random.Random,
    change: Callable[[Any], Any],
    *,
    stop_early: float = 0.03,
) -> Any:
    """Return a copy with one nested value replaced."""
    if isinstance(value, dict) and value and chance.random() > stop_early:
        key = chance.choice(list(value))
        return {**value, key: _replaced(value[key], chance, change, stop_early=stop_early)}
    if isinstance(value, list) and value and chance.random() > stop_early:
        place = chance.randrange(len(value))
        inside = _replaced(value[place], chance, change, stop_early=stop_early)
        return [*value[:place], inside, *value[place + 1 :]]
    return change(value)


def _dropped(value: Any, chance: random.Random) -> Any:
    """Return a copy with one nested field or item missing."""
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        if isinstance(value[key], dict | list) and value[key] and chance.random() > 0.2:
            return {**value, key: _dropped(value[key], chance)}
        return {name: item for name, item in value.items() if name != key}
    if isinstance(value, list) and value:
        place = chance.randrange(len(value))
        if isinstance(value[place], dict | list) and chance.random() > 0.2:
            return [*value[:place], _dropped(value[place], chance), *value[place + 1 :]]
        return value[:place] + value[place + 1 :]
    return value


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _truncated,
    _flipped,
    _overwritten,
    _with_junk_inside,
    _nested,
    _changed_number,
    _with_duplicate,
    _with_dropped_or_foreign_field,
    _of_another_version,
)


def says(loaded: Any, written: Any) -> bool:
    """True if everything written was loaded unchanged; omitted fields have their defaults."""
    if isinstance(written, dict):
        return all(says(loaded[key], item) for key, item in written.items())
    if isinstance(written, list):
        return all(says(*pair) for pair in zip(loaded, written, strict=True))
    return bool(loaded == written)
