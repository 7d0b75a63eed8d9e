"""The messages between a study and the worker that trains for it."""

from dataclasses import dataclass
from typing import Final

from bsprobe.records.failures import Outcome
from bsprobe.records.trials import Failure
from bsprobe.study.records import LoaderSpec, Loading, TrainingResult, TrainingSpec
from bsprobe.worker.protocol import COMMON, Answer, Request, kinds_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Request):
    """To the worker: make a training, or go on with it from its checkpoint."""

    spec: TrainingSpec
    checkpoint: str
    """The file that the training is kept in until it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLoading(Request):
    """To the worker: sweep the settings of the data loader."""

    spec: LoaderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDone(Answer):
    """From the worker: how a training ended. Exactly one of result and failure is there."""

    outcome: Outcome
    result: TrainingResult | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingDone(Answer):
    """From the worker: what the sweep says. Exactly one of result and failure is there."""

    outcome: Outcome
    result: Loading | None = None
    failure: Failure | None = None


KINDS: Final = kinds_of(*COMMON, Train, TrainingDone, MeasureLoading, LoadingDone)
