"""Progress of a search as plain lines, for programs that call bsprobe's API."""

from typing import TextIO

from bsprobe.records.printable import single_line
from bsprobe.records.runs import Prediction, Settings, VariantResult
from bsprobe.records.trials import Trial, TrialSpec
from bsprobe.records.units import format_bytes, format_rate, format_seconds
from bsprobe.records.variants import Variant
from bsprobe.report.escaping import terminal
from bsprobe.report.run import script, sentences, validation


def trial_line(trial: Trial) -> str:
    """Return a finished trial as a line: batch, outcome, memory, rate, purpose and time."""
    steps = trial.spec.accumulation_steps
    batch = f"batch {trial.spec.batch_size}" + (f" x {steps}" if steps > 1 else "")
    words = [f"  {batch:<11}", f"{sentences.trial_words(trial) + script.unseen(trial):<14}"]
    if trial.measurement is not None:
        words.append(f"{format_bytes(trial.measurement.peak_bytes):>9}")
        rate = trial.measurement.images_per_second
        words.append(f"{format_rate(rate):>8} images/s" if rate is not None else "")
        words.append(validation.outcome(trial))
    elif trial.failure is not None:
        phase = trial.failure.phase
        words.append(f"{'' if trial.script else 'in '}{phase}")
    words.append(f"({trial.purpose}, {format_seconds(trial.wall_seconds)})")
    return " ".join(word for word in words if word)


class PlainProgress:
    """Writes a line for each trial, and one before and after them.

    Args:
        settings: The settings of the search, with one variant.
        stream: The stream to write to.
    """

    def __init__(self, settings: Settings, stream: TextIO) -> None:
        self._network = settings.variants[0].network
        self._stream = stream

    def on_opening(self) -> None:
        """Write that the search begins."""
        self._write(f"bsprobe: finding the largest batch for {self._network}; the result is cached")

    def on_open(self, settings: Settings) -> None:
        """Do nothing."""

    def on_variant(self, variant: Variant) -> None:
        """Do nothing: there is only one variant."""

    def on_predicting(self) -> None:
        """Do nothing: no prediction guides this search."""

    def on_prediction(self, prediction: Prediction) -> None:
        """Do nothing, as above."""

    def on_trial_start(self, spec: TrialSpec) -> None:
        """Do nothing: a trial is written when it has ended."""

    def on_phase(self, phase: str) -> None:
        """Do nothing: phases are not written."""

    def on_trial(self, trial: Trial) -> None:
        """Write the outcome of a trial."""
        self._write(trial_line(trial))

    def on_result(self, result: VariantResult) -> None:
        """Write the result of the search."""
        self._write(f"bsprobe: {sentences.result_words(result)}")

    def _write(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None)
        self._stream.write(f"{terminal(single_line(line), encoding)}\n")
        self._stream.flush()
