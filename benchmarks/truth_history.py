"""A trial's history: what PyTorch recorded, reduced, or kept raw where that cannot be done."""

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
"""Of the snapshots that are kept raw: an archive's part holds 15 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """PyTorch's snapshots around a trial."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    phases: tuple[str, ...]
    peak: Peak


def with_history(trial: TruthTrial, recording: Recording) -> tuple[TruthTrial, dict[str, Any]]:
    """Reduce what PyTorch recorded; returns the trial that knows its history, and the history.

    Raises:
        UnknownEventError: It has events that are not known, or lacks some.
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
    """Keep a recording as PyTorch made it, the first one alone; returns what became of it."""
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
    """Over the whole trial; of one that failed, since its last step but one began."""
    if measurement is None:
        return recorder.peak()
    return Peak(
        allocated_bytes=measurement.peak_allocated_bytes,
        reserved_bytes=measurement.peak_reserved_bytes,
    )
