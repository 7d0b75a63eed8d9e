"""A study: its settings, its trainings and all else that it knows; frozen, JSON-able."""

import math
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceInfo, DeviceRequest, Environment, Target, TrainingPlan
from bsprobe.records.trials import DataSource, Failure, ModelFacts
from bsprobe.records.variants import Variant
from bsprobe.training.cityscapes.normalisation import InputNormalisation

SCHEMA_VERSION = 1
"""The version of study files and their journals; loaders reject any other."""


class Ending(StrEnum):
    """The end of a training; all of them are results."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    """The loss was not finite any more."""
    OUT_OF_MEMORY = "out of memory"
    HOST_MEMORY = "host memory"
    KERNEL_LIMIT = "kernel limit"
    BATCH_TOO_SMALL = "batch too small"
    FAILED = "failed"
    TIMED_OUT = "timed out"

    @classmethod
    def of(cls, outcome: Outcome) -> "Ending":
        """The ending of a training whose process failed with an outcome."""
        return cls(outcome.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """One training. Equal specs train to equal figures, times aside."""

    variant: Variant
    plan: TrainingPlan
    """Micro-batch, accumulation, learning rate, updates; its rates by group are left empty."""
    seed: int
    """Of the weights, of the order of the images and of how each is scaled, cropped, flipped."""
    validations: int
    """Validations of the network while it trains; there is one more before it does."""
    noise_steps: int
    """Gradient-noise samples, in the second half of the training; 0: none."""
    data: DataSource
    workers: int
    """Processes that load images; they change no figure but the times."""
    weights: str | None = None
    """A file of weights to start from; None: from scratch."""
    input_normalisation: InputNormalisation | None = None
    """None: what the weights are known to expect, ImageNet's where there are none."""

    @property
    def images(self) -> int:
        """Training images seen in all."""
        return self.plan.known_updates * self.plan.effective_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The abilities of a network after some updates."""

    updates: int
    images: int
    """Training images seen."""
    seconds: float
    """Spent on training so far: loading and updates, without validations and checkpoints."""
    training_loss: float | None
    """Mean over the updates since the last point; None before the first."""
    validation_loss: float | None
    """Mean over the valid pixels of all validation images; None if it is not finite."""
    pixel_accuracy: float
    mean_iou: float
    """Of one confusion matrix over all validation images, at the size of their labels."""
    class_iou: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSample:
    """Squared norms of gradients at one state of the weights (McCandlish et al. 2018, app. A)."""

    updates: int
    small_batch: int
    big_batch: int
    small_square_norm: float
    """Mean over the small batches that the big one is made of."""
    big_square_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """The score of the best constant prediction on the validation images."""

    class_name: str
    """The class that it predicts for every pixel."""
    pixel_accuracy: float
    mean_iou: float
    loss: float
    """Of predicting the classes' own frequencies for every pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The results of a training that really ran."""

    diverged_at: int | None
    """The update whose loss was not finite, counted from 1; None where all were."""
    curve: tuple[CurvePoint, ...]
    noise: tuple[NoiseSample, ...]
    chance: Chance
    model: ModelFacts
    input_normalisation: InputNormalisation
    weights_loaded: str | None
    """The parts that were and were not taken from the file of weights, in one sentence."""
    training_images: int
    """In the data set."""
    validation_images: int
    peak_bytes: int
    """The most that was held of the device, by the device's own meter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training and how it ended. A result is there unless the process failed."""

    spec: TrainingSpec
    ended: Ending
    result: TrainingResult | None
    failure: Failure | None
    started_at: str
    wall_seconds: float
    """Of the process that ended it, validations and checkpoints included."""

    def __post_init__(self) -> None:
        """Refuse a record that contradicts itself.

        Raises:
            ValueError: Neither or both of result and failure.
        """
        ran = self.ended in (Ending.FINISHED, Ending.DIVERGED)
        if ran != (self.result is not None) or ran == (self.failure is not None):
            raise ValueError(f"a training that ended '{self.ended}' with the wrong figures")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSetting:
    """The settings of a data loader."""

    workers: int
    prefetch_factor: int | None
    """Batches that each worker keeps ready; None without workers."""
    pin_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSpec:
    """A sweep over the settings of the data loader, for one training."""

    training: TrainingSpec
    settings: tuple[LoaderSetting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRate:
    """The rates with one setting of the loader."""

    setting: LoaderSetting
    alone_images_per_second: float
    """Its own rate while nothing else is done."""
    fed_images_per_second: float
    """The rate of a training that is fed by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The data loader beside the training step."""

    effective_batch: int
    micro_batch: int
    step_images_per_second: float
    """The rate of a training whose images are in memory already."""
    rates: tuple[LoaderRate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """Everything about a study that decides which trainings it makes."""

    variant: Variant
    device: DeviceRequest
    batches: tuple[int, ...]
    """Effective batches, ascending."""
    seeds: tuple[int, ...]
    images: int
    """Training images that each training is to see, at least."""
    validations: int
    micro_batch: int | None
    """The most images in one forward pass; None: the whole batch, or what fits of it."""
    target: Target
    """The recipe that learning rates are scaled from; `batch` and `headroom` are not used."""
    data: DataSource
    workers: int | None
    """None: as many as the device's kind and the processor suggest."""
    training_timeout_seconds: float
    weights: str | None = None
    input_normalisation: InputNormalisation | None = None

    @property
    def images_seen(self) -> int:
        """The first number from `images` on that every batch divides.

        Only then do all trainings see the same images, each equally often.
        """
        step = math.lcm(*self.batches)
        return -(-self.images // step) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A whole study: what was asked, where, every training, and the data loader."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: StudySettings
    trainings: tuple[Training, ...]
    loading: Loading | None
    """None where no training finished, or the sweep failed."""
