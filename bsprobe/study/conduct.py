"""A whole study: every training in turn, then the data loader, all of it on the disk at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.trials import Failure
from bsprobe.storage.files import remove_partial_files
from bsprobe.study.journal import StudyJournal
from bsprobe.study.plan import loader_settings, next_training
from bsprobe.study.records import (
    SCHEMA_VERSION,
    LoaderSpec,
    Loading,
    Study,
    StudySettings,
    Training,
    TrainingSpec,
)
from bsprobe.study.verdict import summaries, verdict

ReportPhase = Callable[[str], None]


class Trainer(Protocol):
    """Makes trainings: `runner.StudyRunner`, or a stand-in for it."""

    def train(self, spec: TrainingSpec, checkpoint: Path, *, on_phase: ReportPhase) -> Training:
        """Make one training, or go on with it from its checkpoint."""

    def measure_loading(self, spec: LoaderSpec, *, on_phase: ReportPhase) -> Loading | Failure:
        """Sweep the settings of the data loader."""


class Listener(Protocol):
    """Told what happens."""

    def on_training_start(self, spec: TrainingSpec, *, resumed: bool) -> None:
        """A training begins, or goes on from its checkpoint."""

    def on_loading_start(self, spec: LoaderSpec) -> None:
        """The sweep over the data loader begins."""

    def on_phase(self, phase: str) -> None:
        """The worker does something else now."""

    def on_training(self, training: Training) -> None:
        """A training has ended."""

    def on_loading(self, loading: Loading | Failure) -> None:
        """The sweep has ended."""


class Studying:
    """Makes the trainings of a study that are not made yet."""

    def __init__(
        self,
        settings: StudySettings,
        *,
        trainer: Trainer,
        device: DeviceInfo,
        journal: StudyJournal,
        folder: Path,
        listener: Listener,
        known: tuple[Training, ...] = (),
        processors: int = os.cpu_count() or 1,
    ) -> None:
        """Take what a study needs.

        Args:
            settings: What to study.
            trainer: Makes the trainings.
            device: Where they are made.
            journal: Takes every finished training.
            folder: Of the study; checkpoints are kept in it.
            listener: Told what happens.
            known: Trainings that an interrupted study had finished.
            processors: Of the machine: they decide how many loading processes are tried.
        """
        self._settings = settings
        self._trainer = trainer
        self._device = device
        self._journal = journal
        self._folder = folder
        self._listener = listener
        self._trainings = [training for training in known if counts(training, device.kind)]
        self._on_gpu = device.kind is DeviceKind.CUDA
        self._processors = processors

    def run(self, environment: Environment) -> Study:
        """Make every training that is missing, then sweep the loader for the best batch.

        Raises:
            FileError: The disk is full; what was finished is kept.
            DeviceError: A training was refused: a damaged image, weights that do not match …
        """
        while (spec := self._next()) is not None:
            self._train(spec)
        for left in self._folder.glob("batch-*.checkpoint"):
            left.unlink(missing_ok=True)  # of a kill between two steps of ours
        remove_partial_files(self._folder)
        return Study(
            schema_version=SCHEMA_VERSION,
            environment=environment,
            device=self._device,
            settings=self._settings,
            trainings=tuple(self._trainings),
            loading=self._measure_loading(),
        )

    def _next(self) -> TrainingSpec | None:
        return next_training(
            self._settings, self._trainings, on_gpu=self._on_gpu, processors=self._processors
        )

    def _train(self, spec: TrainingSpec) -> None:
        checkpoint = self._folder / checkpoint_name(spec)
        self._listener.on_training_start(spec, resumed=checkpoint.exists())
        training = self._trainer.train(spec, checkpoint, on_phase=self._listener.on_phase)
        self._journal.append(training)
        self._trainings.append(training)
        checkpoint.unlink(missing_ok=True)
        self._listener.on_training(training)

    def _measure_loading(self) -> Loading | None:
        chosen = verdict(summaries(self._trainings))
        if chosen is None:
            return None
        spec = LoaderSpec(
            training=next(t.spec for t in chosen.best.trainings if t.result is not None),
            settings=loader_settings(on_gpu=self._on_gpu, processors=self._processors),
        )
        self._listener.on_loading_start(spec)
        loading = self._trainer.measure_loading(spec, on_phase=self._listener.on_phase)
        self._listener.on_loading(loading)
        return None if isinstance(loading, Failure) else loading


def counts(training: Training, kind: DeviceKind) -> bool:
    """Tell a training that a resumed study keeps from one whose failure says nothing of it."""
    failure = training.failure
    return failure is None or failure.proves(Outcome(training.ended.value), kind)


def checkpoint_name(spec: TrainingSpec) -> str:
    """The file that an unfinished training is kept in."""
    plan = spec.plan
    return f"batch-{plan.effective_batch}-micro-{plan.micro_batch}-seed-{spec.seed}.checkpoint"
