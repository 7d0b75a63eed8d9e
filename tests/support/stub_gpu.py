"""A stub of a GPU and of a recording of its allocator, with fixed figures."""

from collections.abc import Collection, Mapping
from typing import Any

from bsprobe.devices.base import ReportPhase
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, ModelFacts, Peak, TrialSpec
from tests.support.builders import DEVICE, GROUPS
from tests.support.snapshots import AFTER, EMPTY, PEAK_ALLOCATED, PEAK_RESERVED


class StubGpu:
    """Returns the figures of `snapshots` for every trial, or raises the given error."""

    def __init__(
        self, failures: Mapping[int, Exception] | None = None, *, clean: bool = True
    ) -> None:
        self.asked: list[TrialSpec] = []
        self.clean = clean
        self._failures = failures or {}

    @property
    def info(self) -> DeviceInfo:
        return DEVICE

    @property
    def budget_bytes(self) -> int | None:
        return None

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        self.asked.append(spec)
        report("building")
        report("step 1")
        if spec.batch_size in self._failures:
            raise self._failures[spec.batch_size]
        peak = Peak(allocated_bytes=PEAK_ALLOCATED, reserved_bytes=PEAK_RESERVED)
        return Measurement(
            model=ModelFacts(parameters=1, groups=GROUPS),
            first_step=peak,
            steady=peak,
            updates_applied=1,
            steps=1,
        )

    def lift_limit(self) -> None:
        pass

    def is_clean(self) -> bool:
        return self.clean


UNKNOWN_EVENT = {
    **AFTER,
    "device_traces": [[*AFTER["device_traces"][0], {"action": "workspace_snapshot"}]],
}
"""A recording with events that bsprobe does not know."""


class StubRecorder:
    """Returns fixed snapshots; at the given trials, with an unknown event."""

    def __init__(self, unknown_events_at: Collection[int] = ()) -> None:
        self.calls: list[str] = []
        self._unknown_events_at = unknown_events_at

    def start(self) -> Mapping[str, Any]:
        self.calls.append("start")
        return EMPTY

    def mark(self) -> None:
        self.calls.append("mark")

    def stop(self) -> Mapping[str, Any]:
        self.calls.append("stop")
        is_unknown = self.calls.count("stop") in self._unknown_events_at
        return UNKNOWN_EVENT if is_unknown else AFTER

    def peak(self) -> Peak:
        return Peak(allocated_bytes=PEAK_ALLOCATED, reserved_bytes=PEAK_RESERVED)
