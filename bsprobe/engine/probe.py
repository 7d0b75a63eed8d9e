"""A run: for each variant the boundary, the recommendation and the trial that proves it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from bsprobe.analysis.course import Course, counts
from bsprobe.analysis.search import Process
from bsprobe.records.errors import FileError
from bsprobe.records.runs import (
    SCHEMA_VERSION,
    DeviceInfo,
    Environment,
    Prediction,
    Run,
    Settings,
    VariantResult,
)
from bsprobe.records.trials import Purpose, Trial, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.storage.journal import Journal


class Listener(Protocol):
    """Receives the events of a run, to display them."""

    def on_open(self, settings: Settings) -> None:
        """The device is open, and the variants are complete."""

    def on_variant(self, variant: Variant) -> None:
        """The search of a variant begins."""

    def on_predicting(self) -> None:
        """The prediction that guides the search begins."""

    def on_prediction(self, prediction: Prediction) -> None:
        """The prediction that guides the search is made."""

    def on_trial_start(self, spec: TrialSpec) -> None:
        """A trial begins."""

    def on_phase(self, phase: str) -> None:
        """The worker enters a phase."""

    def on_trial(self, trial: Trial) -> None:
        """A trial has ended and is in the journal."""

    def on_result(self, result: VariantResult) -> None:
        """A variant is finished."""


class RunTrial(Protocol):
    """Callable that runs one trial, such as `TrialRunner.run`."""

    def __call__(
        self,
        spec: TrialSpec,
        *,
        process: Process,
        purpose: Purpose,
        on_phase: Callable[[str], None],
    ) -> Trial:
        """Return the record of the trial."""


class Predict(Protocol):
    """Callable that predicts the boundary of a variant, such as `predict.Predictor`."""

    def __call__(self, variant: Variant, *, on_phase: Callable[[str], None]) -> Prediction:
        """Return the prediction, or the reason why there is none."""


class Probing:
    """Makes a run from its settings, and reuses the trials of an interrupted run.

    Args:
        settings: The settings of the run.
        run_trial: Runs one trial.
        device: The device that runs the trials.
        journal: The open journal; each new trial is appended to it.
        listener: Receives the events.
        known: The trials of the interrupted run.
        predict: Predicts boundaries to guide the search, or None.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_trial: RunTrial,
        device: DeviceInfo,
        journal: Journal,
        listener: Listener,
        known: Sequence[Trial] = (),
        predict: Predict | None = None,
    ) -> None:
        self._settings = settings
        self._run_trial = run_trial
        self._device = device
        self._journal = journal
        self._listener = listener
        self._known = [trial for trial in known if counts(trial, device.kind)]
        self._predict = predict

    def run(self, environment: Environment) -> Run:
        """Probe every variant, in order."""
        course = Course(
            self._settings,
            device=self._device,
            new_trial=self._new_trial,
            listener=self._listener,
            known=self._known,
            predict=None if self._predict is None else partial(self._prediction, self._predict),
        )
        results = course.results()
        return Run(
            schema_version=SCHEMA_VERSION,
            environment=environment,
            device=self._device,
            settings=self._settings,
            trials=tuple(course.trials),
            results=results,
        )

    def _prediction(self, predict: Predict, variant: Variant) -> Prediction:
        self._listener.on_predicting()
        prediction = predict(variant, on_phase=self._listener.on_phase)
        self._listener.on_prediction(prediction)
        return prediction

    def _new_trial(self, spec: TrialSpec, process: Process, purpose: Purpose) -> Trial:
        """Run a trial, and append it to the journal."""
        self._listener.on_trial_start(spec)
        trial = self._run_trial(
            spec, process=process, purpose=purpose, on_phase=self._listener.on_phase
        )
        self._require_same_torch(trial)
        self._journal.append(trial)
        return trial

    def _require_same_torch(self, trial: Trial) -> None:
        """Raise FileError if a command imports another PyTorch than in the known trials."""
        now = trial.script and trial.script.torch
        found = (each.script and each.script.torch for each in self._known)
        before = next(filter(None, found), now)
        if now is not None and now != before:
            raise FileError(
                f"the command imports PyTorch {now}, but imported {before} in the trials before",
                hint=f"let it import PyTorch {before} again, or start a new run without --resume",
            )
