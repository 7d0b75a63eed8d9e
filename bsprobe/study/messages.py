"""The messages between a study and its worker."""

from dataclasses import dataclass
from typing import Final

from bsprobe.records.failures import Outcome
from bsprobe.records.trials import Failure
from bsprobe.study.records import LoaderSpec, Loading, TrainingResult, TrainingSpec
from bsprobe.worker.protocol import COMMON, Answer, Request, kinds_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Request):
    """To the worker: run a training, or resume it from its checkpoint."""

    spec: TrainingSpec
    checkpoint: str
    """The path of the checkpoint file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLoading(Request):
    """To the worker: sweep the settings of the data loader."""

    spec: LoaderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDone(Answer):
    """From the worker: the end of a training, with either a result or a failure."""

    outcome: Outcome
    result: TrainingResult | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingDone(Answer):
    """From the worker: the end of a sweep, with either a result or a failure."""

    outcome: Outcome
    result: Loading | None = None
    failure: Failure | None = None


KINDS: Final = kinds_of(*COMMON, Train, TrainingDone, MeasureLoading, LoadingDone)
