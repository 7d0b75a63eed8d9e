"""The progress of a study: one line for each training."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from bsprobe.records.trials import Failure
from bsprobe.records.units import format_seconds
from bsprobe.report.progress import Progress
from bsprobe.study.records import LoaderSpec, Loading, StudySettings, Training, TrainingSpec


class StudyProgress:
    """Shows the progress of a study."""

    def __init__(self, settings: StudySettings, console: Console) -> None:
        self._progress = Progress(console)
        self._settings = settings
        self.on_phase = self._progress.on_phase

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress inside the context, beginning with the opening of the device."""
        seen, asked = self._settings.images_seen, self._settings.images
        with self._progress.shown():
            if seen != asked:
                self._progress.warn(
                    f"each training sees {seen} images: not all batches divide {asked}"
                )
            self._progress.begin("opening the device")
            yield

    def on_training_start(self, spec: TrainingSpec, *, resumed: bool) -> None:
        """Show the training that runs."""
        self._progress.begin(self._name(spec) + (", from its checkpoint" if resumed else ""))

    def on_loading_start(self, spec: LoaderSpec) -> None:
        """Show that the data loader is timed."""
        self._progress.on_stage(f"data loader, {len(spec.settings)} settings")

    def on_training(self, training: Training) -> None:
        """Write the end of a training."""
        words = f"{self._name(training.spec):<28} {training.ended}"
        if training.result is not None and training.result.diverged_at is not None:
            words += f" at update {training.result.diverged_at}"
        elif training.result is not None:
            words += f", mIoU {training.result.curve[-1].mean_iou:.3f}"
        elif training.failure is not None:
            words += f" in {training.failure.phase}"
        self._progress.log(f"{words} ({format_seconds(training.wall_seconds)})")

    def on_loading(self, loading: Loading | Failure) -> None:
        """Write the end of the sweep."""
        if isinstance(loading, Failure):
            self._progress.log(f"data loader: failed in {loading.phase}: {loading.message}")
        else:
            self._progress.log(f"data loader: {len(loading.rates)} settings timed")

    def _name(self, spec: TrainingSpec) -> str:
        plan = spec.plan
        return (
            f"batch {plan.effective_batch} ({plan.micro_batch} x {plan.accumulation_steps}), "
            f"seed {spec.seed}"
        )
