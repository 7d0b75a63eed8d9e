"""What a device is to the worker: something that takes a trial and says what it measured."""

from collections.abc import Callable
from typing import Protocol

from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, TrialSpec

ReportPhase = Callable[[str], None]


class Device(Protocol):
    """Runs trials, one after the other, in the worker's process."""

    @property
    def info(self) -> DeviceInfo:
        """The device and its capacity."""

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that the allocator might reserve in the last trial; None where nothing capped it.

        A memory limit bounds the whole process; what lies outside the allocator is taken off.
        """

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial to its end.

        Args:
            spec: What to run.
            report: Told what happens now, for progress and for the place of a failure.

        Raises:
            Exception: Whatever the trial died of, unchanged; `failures.classify` names it.
        """

    def lift_limit(self) -> None:
        """Give up the memory limit, so that a failure can be described; no trial follows."""

    def is_clean(self) -> bool:
        """Whether memory is back at its baseline, so that another trial may run here."""
