"""A trial's allocator history: PyTorch's snapshot reduced, or kept raw if it cannot be reduced."""

import gzip
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.truth_records import TruthTrial, raw_path
from bsprobe.devices.recorder import Recorder
from bsprobe.records.trials import Measurement, Peak
from bsprobe.records.units import MIB, format_bytes
from bsprobe.simulate.explain.reduction import reduced
from bsprobe.storage.files import write_atomically

_MOST_RAW_BYTES = 12 * MIB
"""Limit for raw snapshots: a part of an archive holds 15 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """PyTorch's snapshots around a trial."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    phases: tuple[str, ...]
    peak: Peak


def with_history(trial: TruthTrial, recording: Recording) -> tuple[TruthTrial, dict[str, Any]]:
    """Reduce a recording; return the trial with the places of its allocations, and the history.

    Raises:
        UnknownEventError: The recording has unknown events, or lacks some.
    """
    found = reduced(
        recording.before,
        recording.after,
        marks=len(recording.phases),
        retries=trial.measurement.allocator_retries if trial.measurement is not None else 1,
    )
    history = {
        **found.history,
        "name": trial.name,
        "provenance": {
            "recorded_by": "benchmarks/record_truth.py",
            "workload": trial.name,
            "torch": trial.torch,
            "device_index": 0,
        },
        "peak_allocated": recording.peak.allocated_bytes,
        "peak_reserved": recording.peak.reserved_bytes,
    }
    marks = tuple(zip(found.marks, recording.phases, strict=True))
    return replace(trial, marks=marks, places=found.places, place_of=found.place_of), history


def keep_raw(folder: Path, name: str, recording: Recording) -> str:
    """Keep the first recording as PyTorch made it; return a note on the outcome."""
    path = raw_path(folder, name)
    if path.parent.exists() and any(path.parent.iterdir()):
        return "another one is kept raw"
    content = {"before": recording.before, "after": recording.after, "phases": recording.phases}
    data = gzip.compress(pickle.dumps(content, protocol=4), mtime=0)
    if len(data) > _MOST_RAW_BYTES:
        return f"too large to be kept raw: {format_bytes(len(data))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return f"kept raw in {path.parent.name}/{path.name}"


def peak_of(measurement: Measurement | None, recorder: Recorder) -> Peak:
    """Return the peak of the trial; of a failed one, the peak since its second-last step began."""
    if measurement is None:
        return recorder.peak()
    return Peak(
        allocated_bytes=measurement.peak_allocated_bytes,
        reserved_bytes=measurement.peak_reserved_bytes,
    )
