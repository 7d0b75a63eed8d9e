"""The course of a study: every training in turn, then the sweep of the data loader."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.trials import Failure
from bsprobe.storage.files import remove_partial_files
from bsprobe.study.journal import StudyJournal
from bsprobe.study.plan import counts, loader_settings, next_training
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
    """Runs trainings: `runner.StudyRunner`, or a test double."""

    def train(self, spec: TrainingSpec, checkpoint: Path, *, on_phase: ReportPhase) -> Training:
        """Run one training, or resume it from its checkpoint.

        Args:
            spec: The training.
            checkpoint: The file of its checkpoint.
            on_phase: Called with each phase of the worker.
        """

    def measure_loading(self, spec: LoaderSpec, *, on_phase: ReportPhase) -> Loading | Failure:
        """Sweep the settings of the data loader."""


class Listener(Protocol):
    """Notified of the progress of a study."""

    def on_training_start(self, spec: TrainingSpec, *, resumed: bool) -> None:
        """Called before a training; `resumed` if it starts from its checkpoint."""

    def on_loading_start(self, spec: LoaderSpec) -> None:
        """Called before the sweep of the data loader."""

    def on_phase(self, phase: str) -> None:
        """Called with each phase of the worker."""

    def on_training(self, training: Training) -> None:
        """Called after each training."""

    def on_loading(self, loading: Loading | Failure) -> None:
        """Called after the sweep."""


class Studying:
    """Runs the missing trainings of a study."""

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
        """Prepare a study, new or resumed.

        Args:
            settings: The settings of the study.
            trainer: Runs the trainings.
            device: The device of the trainings.
            journal: Every finished training is appended to it.
            folder: The folder of the study, which holds the checkpoints.
            listener: Notified of the progress.
            known: The finished trainings of a resumed study.
            processors: CPU cores of the machine, an upper bound for loading processes.
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
        """Run every missing training, then sweep the loader for the best batch.

        Raises:
            FileError: A file cannot be written; finished trainings are kept.
            DeviceError: A training was refused, for example for a damaged image.
        """
        while (spec := self._next()) is not None:
            self._train(spec)
        for left in self._folder.glob("batch-*.checkpoint"):
            left.unlink(missing_ok=True)  # of a process killed before it deleted the file
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


def checkpoint_name(spec: TrainingSpec) -> str:
    """The name of the checkpoint file of a training."""
    plan = spec.plan
    return f"batch-{plan.effective_batch}-micro-{plan.micro_batch}-seed-{spec.seed}.checkpoint"
