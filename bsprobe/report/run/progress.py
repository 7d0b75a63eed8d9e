"""What happens now, on standard error: a live line in a terminal, a line a trial elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from bsprobe.records.runs import Prediction, Settings, VariantResult
from bsprobe.records.trials import Trial, TrialSpec
from bsprobe.records.variants import Variant, labels
from bsprobe.report.run import sentences
from bsprobe.report.run.plain import trial_line


class _Status(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update(self, status: str) -> None: ...


class StageProgress:
    """Shows the stages of something long: a live line in a terminal, a line a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: _Status | None = None
        self._now = ""

    def on_stage(self, stage: str) -> None:
        """Something begins that takes seconds."""
        self.stop()
        self._now = stage
        if self._console.is_terminal:
            self._status = self._console.status(stage, spinner="dots")
            self._status.start()
        else:
            self._console.print(stage, highlight=False, markup=False, soft_wrap=True)

    def on_phase(self, phase: str) -> None:
        """Say what the worker is doing."""
        if self._status is not None:
            self._status.update(f"{self._now}  {phase}")

    def stop(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class TrialProgress:
    """Shows a run as it goes."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._console = console
        self._settings = settings
        self._names = labels(settings.variants)
        self._count = len(settings.variants)
        self._started = 0
        self._status: _Status | None = None
        self._now = ""

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Show that the device is being opened, which takes seconds, until the first variant."""
        if self._console.is_terminal:
            self._status = self._console.status("opening the device", spinner="dots")
            self._status.start()
        try:
            yield
        finally:
            self.stop()

    def on_variant(self, variant: Variant) -> None:
        """Announce a variant."""
        self.stop()
        self._started += 1
        self._print(f"[{self._started}/{self._count}] {self._names[variant]}")

    def on_predicting(self) -> None:
        """Begin the live line of a prediction."""
        self._begin("  predicting")

    def on_prediction(self, prediction: Prediction) -> None:
        """Say where the search will begin."""
        self.stop()
        self._print(f"  {sentences.guided_by(prediction, self._settings)}")

    def on_trial_start(self, spec: TrialSpec) -> None:
        """Begin the live line of a trial."""
        steps = spec.accumulation_steps
        accumulated = f" x {steps} accumulation steps" if steps > 1 else ""
        self._begin(f"  batch {spec.batch_size}{accumulated}")

    def on_phase(self, phase: str) -> None:
        """Say what the worker is doing."""
        if self._status is not None:
            self._status.update(f"{self._now}  {phase}")

    def on_trial(self, trial: Trial) -> None:
        """Say how a trial ended."""
        self.stop()
        self._print(trial_line(trial))

    def on_result(self, result: VariantResult) -> None:
        """Say what a variant came to."""
        self._print(f"  {sentences.verdict(result.boundary)}")

    def stop(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _begin(self, now: str) -> None:
        self._now = now
        if self._console.is_terminal:
            self._status = self._console.status(now, spinner="dots")
            self._status.start()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
