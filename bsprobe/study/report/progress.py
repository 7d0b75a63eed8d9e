"""What happens now, on standard error: a live line in a terminal, a line a training elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from bsprobe.records.trials import Failure
from bsprobe.records.units import format_seconds
from bsprobe.study.records import LoaderSpec, Loading, StudySettings, Training, TrainingSpec

if TYPE_CHECKING:
    from rich.status import Status


class StudyProgress:
    """Shows a study as it goes."""

    def __init__(self, settings: StudySettings, console: Console) -> None:
        self._console = console
        self._settings = settings
        self._status: Status | None = None
        self._now = ""

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Show that the device is being opened, which takes seconds, until the first training."""
        seen, asked = self._settings.images_seen, self._settings.images
        if seen != asked:
            self._print(f"each training sees {seen} images: the batches do not all divide {asked}")
        self._begin("opening the device")
        try:
            yield
        finally:
            self._stop()

    def on_training_start(self, spec: TrainingSpec, *, resumed: bool) -> None:
        """Begin the live line of a training."""
        self._begin(self._name(spec) + (", from its checkpoint" if resumed else ""))

    def on_loading_start(self, spec: LoaderSpec) -> None:
        """Begin the live line of the sweep."""
        self._begin(f"data loader, {len(spec.settings)} settings")

    def on_phase(self, phase: str) -> None:
        """Say what the worker is doing."""
        if self._status is not None:
            self._status.update(f"{self._now}  {phase}")

    def on_training(self, training: Training) -> None:
        """Say how a training ended."""
        self._stop()
        words = f"{self._name(training.spec):<28} {training.ended}"
        if training.result is not None and training.result.diverged_at is not None:
            words += f" at update {training.result.diverged_at}"
        elif training.result is not None:
            words += f", mIoU {training.result.curve[-1].mean_iou:.3f}"
        elif training.failure is not None:
            words += f" in {training.failure.phase}"
        self._print(f"{words} ({format_seconds(training.wall_seconds)})")

    def on_loading(self, loading: Loading | Failure) -> None:
        """Say how the sweep ended."""
        self._stop()
        if isinstance(loading, Failure):
            self._print(f"data loader: failed in {loading.phase}: {loading.message}")
        else:
            self._print(f"data loader: {len(loading.rates)} settings timed")

    def _name(self, spec: TrainingSpec) -> str:
        plan = spec.plan
        return (
            f"batch {plan.effective_batch} ({plan.micro_batch} x {plan.accumulation_steps}), "
            f"seed {spec.seed}"
        )

    def _begin(self, line: str) -> None:
        self._stop()
        self._now = line
        if self._console.is_terminal:
            self._status = self._console.status(line, spinner="dots")
            self._status.start()

    def _stop(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
