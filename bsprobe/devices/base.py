"""The interface of a device that runs trials."""

from collections.abc import Callable
from typing import Protocol

from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Measurement, TrialSpec

ReportPhase = Callable[[str], None]
"""Called with the name of each phase of a trial when it begins."""


class Device(Protocol):
    """Runs trials, one after the other, in the worker's process."""

    @property
    def info(self) -> DeviceInfo:
        """The device and its capacity."""

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that the allocator could reserve in the last trial; None without a limit.

        It is the memory limit, which applies to the whole process, minus the memory outside the
        allocator.
        """

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Run a trial to its end.

        Args:
            spec: The trial.
            report: Called when a phase begins, for progress and to locate a failure.

        Raises:
            Exception: Any exception of the trial, unchanged; `failures.classify` classifies it.
        """

    def lift_limit(self) -> None:
        """Remove the memory limit, so that a failure can be described. No trial may follow."""

    def is_clean(self) -> bool:
        """Return whether memory is back at its baseline, so that another trial may run here."""
