"""The progress of a run: a line for each variant and each trial."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from bsprobe.analysis.script_facts import files_of
from bsprobe.records.runs import Prediction, Settings, VariantResult
from bsprobe.records.trials import Trial, TrialSpec
from bsprobe.records.variants import Variant, labels
from bsprobe.report.progress import Progress
from bsprobe.report.run import repeats, sentences
from bsprobe.report.run.plain import trial_line


class TrialProgress:
    """Shows the progress of a run."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._progress = Progress(console)
        self._settings = settings
        self._names = labels(settings.variants)
        self._count = len(settings.variants)
        self._started = 0
        self.on_phase = self._progress.on_phase
        self.warn = self._progress.warn

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress inside the context."""
        with self._progress.shown():
            self._progress.begin("opening the device")
            yield

    def on_open(self, settings: Settings) -> None:
        """Take the settings: variants are complete once the device is open."""
        self._settings = settings
        self._names = labels(settings.variants)
        if settings.script is not None:
            for line in repeats.warning(settings, settings.script):
                self._progress.log(line)

    def on_variant(self, variant: Variant) -> None:
        """Show the name of a variant."""
        self._started += 1
        self._progress.log(f"[{self._started}/{self._count}] {self._names[variant]}")

    def on_predicting(self) -> None:
        """Show that a prediction for the search is being made."""
        self._progress.begin("  predicting")

    def on_prediction(self, prediction: Prediction) -> None:
        """Show the prediction that the search begins with."""
        self._progress.log(f"  {sentences.guided_by(prediction, self._settings)}")

    def on_trial_start(self, spec: TrialSpec) -> None:
        """Show the trial that runs."""
        steps = spec.accumulation_steps
        accumulated = f" x {steps} accumulation steps" if steps > 1 else ""
        self._progress.begin(f"  batch {spec.batch_size}{accumulated}")

    def on_trial(self, trial: Trial) -> None:
        """Show the outcome of a trial."""
        self._progress.log(trial_line(trial))
        if trial.script is not None and trial.script.wrote:
            self._progress.log(f"  wrote into this folder: {files_of(trial.script)}")

    def on_result(self, result: VariantResult) -> None:
        """Show the result of a variant."""
        self._progress.log(f"  {sentences.result_words(result)}")
