"""A search as plain lines, for programs that are no command of bsprobe's."""

from typing import TextIO

from bsprobe.records.runs import Prediction, Settings, VariantResult
from bsprobe.records.trials import Trial, TrialSpec
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.records.variants import Variant
from bsprobe.report.run import sentences


def trial_line(trial: Trial) -> str:
    """A finished trial in a line: its batch, its outcome, memory, rate, purpose and time."""
    steps = trial.spec.accumulation_steps
    batch = f"batch {trial.spec.batch_size}" + (f" x {steps}" if steps > 1 else "")
    words = [f"  {batch:<11}", f"{sentences.trial_words(trial):<14}"]
    if trial.measurement is not None:
        words.append(f"{format_bytes(trial.measurement.peak_bytes):>9}")
        rate = trial.measurement.images_per_second
        words.append(f"{rate:8.3g} images/s" if rate is not None else "")
    elif trial.failure is not None:
        words.append(f"in {trial.failure.phase}")
    words.append(f"({trial.purpose}, {format_seconds(trial.wall_seconds)})")
    return " ".join(words)


class PlainProgress:
    """Writes a line a trial, and one before and after them.

    Args:
        settings: Of the search, for one variant.
        stream: Where the lines go.
    """

    def __init__(self, settings: Settings, stream: TextIO) -> None:
        self._network = settings.variants[0].network
        self._stream = stream

    def on_opening(self) -> None:
        """Say that the search begins with the opening of the device."""
        self._write(
            f"bsprobe: finding the largest batch for {self._network}; it is kept for the next time"
        )

    def on_open(self, settings: Settings) -> None:
        """Nothing: what the network tells is not written."""

    def on_variant(self, variant: Variant) -> None:
        """Nothing: there is one alone."""

    def on_predicting(self) -> None:
        """Nothing: nothing is predicted."""

    def on_prediction(self, prediction: Prediction) -> None:
        """Nothing, as above."""

    def on_trial_start(self, spec: TrialSpec) -> None:
        """Nothing: a trial has its line when it has ended."""

    def on_phase(self, phase: str) -> None:
        """Nothing: that is more than a line a trial."""

    def on_trial(self, trial: Trial) -> None:
        """Say how a trial ended."""
        self._write(trial_line(trial))

    def on_result(self, result: VariantResult) -> None:
        """Say what the search came to."""
        self._write(f"bsprobe: {sentences.verdict(result.boundary)}")

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()
