"""Histories of PyTorch's allocator, recorded on real GPUs and stored as numbers.

`torch.cuda.memory._dump_snapshot` writes the allocator's events; a history is such a record without
names and stack traces. replay.py compares the simulation with it.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from bsprobe.records.errors import FileError
from bsprobe.records.units import MIB

_FORMAT = 1


class Action(Enum):
    """A program's action on the allocator, with its code in the file."""

    ALLOCATE = "a"
    FREE = "f"
    OUT_OF_MEMORY = "o"
    """An allocation that failed."""
    EMPTY_CACHE = "empty_cache"


class DriverCall(NamedTuple):
    """A request of the allocator to the driver, in the terms of the snapshot."""

    code: str
    """S or F: a segment allocated or freed; M or U: pages mapped or unmapped."""
    address: int
    size: int


class Step(NamedTuple):
    """One action of the program, with the driver calls that it caused."""

    action: Action
    address: int
    size: int
    """The requested bytes."""
    stream: int
    calls: tuple[DriverCall, ...]


class InitialSegment(NamedTuple):
    """A segment that existed when the recording began."""

    address: int
    size: int
    stream: int
    is_small: bool
    live: tuple[tuple[int, int, int], ...]
    """(address, block size, requested size) of its allocated blocks, by address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """The results that a replay must reproduce, independent of addresses."""

    new_memory: tuple[int, ...]
    """The sizes of all allocated segments and mapped ranges, in order, in bytes."""
    flushes: tuple[int, ...]
    """Indices of the allocations, from 0, at which the allocator released cached memory."""
    num_ooms: int
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    final_reserved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A program's requests and the allocator's decisions on a real GPU."""

    name: str
    is_expandable: bool
    initial_segments: tuple[InitialSegment, ...]
    steps: tuple[Step, ...]
    result: ReplayResult
    final_blocks: tuple[tuple[int, int, bool], ...]
    """(address, size, is allocated) of all remaining blocks, by address."""
    capacity_bounds: tuple[int, int] | None
    """The most bytes that the driver granted and the least it refused; None without refusal."""


def load_history(path: Path) -> History:
    """Read a history, gzip'd JSON of format 1.

    Raises:
        FileError: The file cannot be read or is not such a history.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"cannot read the allocator history {path}: {error}") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise FileError(
            f"{path} is not an allocator history of format {_FORMAT}",
            hint="expected gzip'd JSON with a field 'format'",
        )
    try:
        return _decode(data)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"the allocator history {path} is damaged: {error!r}") from error


def _decode(data: dict[str, Any]) -> History:
    segments = tuple(_initial_segments(**data["initial"]))
    emptied = {index for index, cause in data["release_runs"] if cause == Action.EMPTY_CACHE.value}
    steps = tuple(_steps(data["events"], emptied))
    final = data["final_blocks"]
    initial_requested = sum(block[2] for segment in segments for block in segment.live)
    return History(
        name=data["name"],
        is_expandable=data["expandable"],
        initial_segments=segments,
        steps=steps,
        result=ReplayResult(
            new_memory=tuple(c.size for step in steps for c in step.calls if c.code in "SM"),
            flushes=tuple(_flushes(steps)),
            num_ooms=sum(step.action is Action.OUT_OF_MEMORY for step in steps),
            peak_allocated_bytes=data["peak_allocated"],
            # Histories of expandable segments leave it out; it is computed from the events.
            peak_requested_bytes=data.get("peak_requested")
            or _peak_requested(steps, initial_requested),
            peak_reserved_bytes=data["peak_reserved"],
            final_reserved_bytes=data["final_reserved"],
        ),
        final_blocks=tuple(sorted((start, size, bool(live)) for start, size, live in final)),
        capacity_bounds=_capacity_bounds(data, sum(segment.size for segment in segments)),
    )


def _initial_segments(
    segments: Iterable[tuple[int, int, int, int]], blocks: Iterable[tuple[int, int, int, int]]
) -> Iterator[InitialSegment]:
    ordered = sorted(blocks)
    for address, size, stream, is_small in segments:
        live = tuple(
            (start, length, requested)
            for start, length, requested, _ in ordered
            if address <= start < address + size
        )
        yield InitialSegment(address, size, stream, bool(is_small), live)


def _steps(events: list[tuple[str, int, int, int]], emptied: set[int]) -> Iterator[Step]:
    calls: list[DriverCall] = []
    is_emptying = False
    for index, (code, address, size, stream) in enumerate(events):
        if is_emptying and code not in "FU":
            yield Step(Action.EMPTY_CACHE, 0, 0, 0, tuple(calls))
            calls, is_emptying = [], False
        is_emptying = is_emptying or index in emptied
        if code in "SFMU":
            calls.append(DriverCall(code, address, size))
        else:
            yield Step(Action(code), address, size, stream, tuple(calls))
            calls = []
    if is_emptying:
        yield Step(Action.EMPTY_CACHE, 0, 0, 0, tuple(calls))


def _flushes(steps: Iterable[Step]) -> Iterator[int]:
    allocations = [s for s in steps if s.action in {Action.ALLOCATE, Action.OUT_OF_MEMORY}]
    for number, step in enumerate(allocations):
        if any(call.code in "FU" for call in step.calls):
            yield number


def _peak_requested(steps: Iterable[Step], initial: int) -> int:
    requested = peak = initial
    for step in steps:
        if step.action is Action.ALLOCATE:
            requested += step.size
            peak = max(peak, requested)
        elif step.action is Action.FREE:
            requested -= step.size
    return peak


def _capacity_bounds(data: dict[str, Any], initial_reserved: int) -> tuple[int, int] | None:
    if data["cap_bounds_mib"] is not None:
        granted, refused = data["cap_bounds_mib"]
        return granted * MIB, refused * MIB
    reserved = initial_reserved
    for code, address, size, _ in data["events"]:
        if code == "o":  # its address field holds the driver's free bytes
            return reserved + address, reserved + address + 1
        reserved += {"S": size, "M": size, "F": -size, "U": -size}.get(code, 0)
    return None
