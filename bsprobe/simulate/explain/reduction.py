"""Reduction of PyTorch's memory snapshots to histories of numbers.

`reduced` turns the dictionary of `torch.cuda.memory._snapshot()` into a history of format 1
(`benchmarks.validation.history`), with the starts of the trial's phases and the Python function of
each allocation. Allocations of the backward pass have no function, as the threads of the autograd
engine run no Python. C++ stacks would show it, but resolving their symbols takes minutes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from bsprobe.records.errors import BsprobeError
from bsprobe.simulate.timeline import Phase

_CODES = {
    "alloc": "a",
    "free_completed": "f",
    "segment_alloc": "S",
    "segment_free": "F",
    "segment_map": "M",
    "segment_unmap": "U",
    "oom": "o",
}
"""The actions of a snapshot (torch/csrc/cuda/memory_snapshot.cpp) and their codes in a history."""
_MARK = "snapshot"
_LEFT_OUT = frozenset({_MARK, "free_requested", "annotate"})
"""Actions that a history leaves out. `free_completed` follows `free_requested` at once, as trials
use one stream. `annotate` (PyTorch 2.15) changes nothing."""
_RELEASES = "FU"
_WAYS_THROUGH = ("torch/nn/modules/module.py", "torch/nn/modules/container.py", "torch/utils/")
"""Files of PyTorch whose functions are on every stack."""
_STEP = ("bsprobe/training/step.py", "training_step")
_UPDATES = ("torch/optim/", "torch/amp/grad_scaler.py")
"""Files of PyTorch that allocate while weights are updated."""
_SCALES_LOSS = "scale"
"""The function of GradScaler that belongs to the forward pass."""
_ROOT = str(Path(__file__).resolve().parents[3]) + "/"


class UnknownEventError(BsprobeError):
    """A snapshot has events that are unknown here, or lacks some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """A recording as numbers."""

    history: dict[str, Any]
    """Format 1, without name, provenance and peaks."""
    marks: tuple[int, ...]
    """Number of events before each mark."""
    places: tuple[str, ...]
    """Distinct Python functions that allocated."""
    place_of: tuple[int, ...]
    """Index into `places` of each allocation, in order."""
    phases: tuple[Phase, ...]
    """Phase of each allocation, in order; valid for those of steps."""


def reduced(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    index: int = 0,
    marks: int = 0,
    retries: int = 0,
) -> Reduced:
    """Reduce a recording to numbers.

    Args:
        before: The snapshot at its beginning.
        after: The snapshot at its end.
        index: The index of the device.
        marks: The number of marks that the trial has set.
        retries: The number of times that the allocator flushed its cache (`num_alloc_retries`).

    Raises:
        UnknownEventError: The recording has unknown events, or lacks some.
    """
    trace = after["device_traces"][index]
    actions = {entry["action"] for entry in trace}
    if unknown := actions - _CODES.keys() - _LEFT_OUT:
        raise UnknownEventError(
            f"unknown event '{min(unknown)}' in the memory history of PyTorch {torch.__version__}",
            hint=f"predict with --gpu, or add the event to {Path(__file__).name}",
        )
    kept = [entry for entry in trace if entry["action"] in _CODES]
    found = tuple(_marks(trace))[:marks]  # the last snapshot may add one
    if len(found) < marks:
        raise UnknownEventError(f"the allocator's history has {len(found)} of {marks} marks")
    stacks = [entry.get("frames", ()) for entry in kept if entry["action"] == "alloc"]
    texts = [place_of(frames) for frames in stacks]
    places = tuple(dict.fromkeys(texts))
    number = {text: number for number, text in enumerate(places)}
    events = [_event(entry) for entry in kept]
    settings = after.get("allocator_settings")
    return Reduced(
        history={
            "format": 1,
            "settings": settings,
            "expandable": bool((settings or {}).get("expandable_segments")),
            "initial": _initial(_segments(before, index)),
            "events": events,
            "release_runs": _release_runs([event[0] for event in events], retries),
            "cap_bounds_mib": None,
            "final_blocks": _final(_segments(after, index)),
            "final_reserved": sum(each["total_size"] for each in _segments(after, index)),
        },
        marks=found,
        places=places,
        place_of=tuple(number[text] for text in texts),
        phases=tuple(phase_of(frames) for frames in stacks),
    )


def place_of(frames: Sequence[Mapping[str, Any]]) -> str:
    """Return the innermost function that is no wrapper, and the innermost one outside PyTorch.

    Args:
        frames: The frames of a snapshot, innermost first.
    """
    speaking = [(_short(each["filename"]), each) for each in frames]
    speaking = [pair for pair in speaking if not pair[0].startswith(_WAYS_THROUGH)]
    outside = [pair for pair in speaking if not pair[0].startswith("torch/")]
    chosen = dict.fromkeys(
        f"{name}:{frame['line']} {frame['name']}" for name, frame in (*speaking[:1], *outside[:1])
    )
    return " < ".join(chosen)


def phase_of(frames: Sequence[Mapping[str, Any]]) -> Phase:
    """Return the phase of a training step in which functions were running.

    Threads of the autograd engine do not run inside `training_step`.

    Args:
        frames: The frames of a snapshot, innermost first.
    """
    running = [(_short(each["filename"]), each["name"]) for each in frames]
    if _STEP not in running:
        return Phase.BACKWARD
    is_update = any(
        name.startswith(_UPDATES) and function != _SCALES_LOSS for name, function in running
    )
    return Phase.OPTIMIZER if is_update else Phase.FORWARD


def _short(filename: str) -> str:
    """Return a file's path without the folder of its installation."""
    for folder in ("site-packages/", "dist-packages/"):
        if folder in filename:
            return filename.rpartition(folder)[2]
    return filename.removeprefix(_ROOT) if filename.startswith(_ROOT) else Path(filename).name


def _event(entry: Mapping[str, Any]) -> list[Any]:
    is_out_of_memory = entry["action"] == "oom"
    address = entry["device_free" if is_out_of_memory else "addr"]
    return [_CODES[entry["action"]], address, entry["size"], entry["stream"]]


def _marks(trace: Iterable[Mapping[str, Any]]) -> Iterable[int]:
    before = 0
    for entry in trace:
        if entry["action"] == _MARK:
            yield before
        before += entry["action"] in _CODES


def _segments(snapshot: Mapping[str, Any], index: int) -> list[Mapping[str, Any]]:
    return [segment for segment in snapshot["segments"] if segment["device"] == index]


def _initial(segments: Iterable[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {"segments": [], "blocks": []}
    for each in segments:
        is_small = each["segment_type"] == "small"
        found["segments"].append(
            [each["address"], each["total_size"], each["stream"], int(is_small)]
        )
        found["blocks"] += [
            [block["address"], block["size"], block["requested_size"], each["stream"]]
            for block in each["blocks"]
            if block["state"] == "active_allocated"
        ]
    return found


def _final(segments: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    return [
        [block["address"], block["size"], int(block["state"] == "active_allocated")]
        for segment in segments
        for block in segment["blocks"]
    ]


def _release_runs(codes: Sequence[str], retries: int) -> list[list[Any]]:
    """Return the runs of released segments with their causes.

    The history does not record causes. Without retries, every run is an `empty_cache`. With
    retries, a run that new memory or a failure follows at once is an `oom_retry`.
    """
    runs: list[list[Any]] = []
    start = 0
    for is_release, group in groupby(codes, key=lambda code: code in _RELEASES):
        end = start + len(list(group))
        if is_release:
            follows = codes[end] if end < len(codes) else ""
            is_retry = retries > 0 and follows in ("S", "M", "o")
            runs.append([start, "oom_retry" if is_retry else "empty_cache"])
        start = end
    return runs
