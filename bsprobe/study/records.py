"""Records of a study: its settings, trainings and results. Frozen, and stored as JSON."""

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
    """The end of a training."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    """The loss of an update was not finite."""
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
    """One training. Equal specs give equal results, except for times."""

    variant: Variant
    plan: TrainingPlan
    """Micro-batch, accumulation, learning rate and updates, without the rates by group."""
    seed: int
    """The seed of the weights, and of the order, scale, crop and flip of the images."""
    validations: int
    """Number of validations during the training; there is one more before it."""
    noise_steps: int
    """Number of gradient-noise samples, all in the second half of the training."""
    data: DataSource
    workers: int
    """Processes that load images; results do not depend on them, except for times."""
    weights: str | None = None
    """A file of weights to start from; None to train from scratch."""
    input_normalisation: InputNormalisation | None = None
    """None for that of the weights; without weights it is `imagenet-rgb`."""

    @property
    def images(self) -> int:
        """Number of training images seen in all updates."""
        return self.plan.known_updates * self.plan.effective_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One validation of a network."""

    updates: int
    images: int
    """Number of training images seen."""
    seconds: float
    """Time spent on loading and updates so far, without validations and checkpoints."""
    training_loss: float | None
    """Mean over the updates since the previous point; None before the first update."""
    validation_loss: float | None
    """Mean over the valid pixels of all validation images; None if it is not finite."""
    pixel_accuracy: float
    mean_iou: float
    """From one confusion matrix over all validation images, at the size of their labels."""
    class_iou: tuple[float | None, ...]
    """By train id; None for a class that is neither in the labels nor in the predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSample:
    """Squared norms of gradients at the weights after some updates (McCandlish et al. 2018, A.1).

    Batches are in images.
    """

    updates: int
    small_batch: int
    big_batch: int
    small_square_norm: float
    """The mean over the small batches in the big one."""
    big_square_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """The score of the best constant prediction on the validation images."""

    class_name: str
    """The class that it predicts for every pixel."""
    pixel_accuracy: float
    mean_iou: float
    loss: float
    """The loss of predicting the frequencies of the classes for every pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The results of a training that finished or diverged."""

    diverged_at: int | None
    """The update whose loss was not finite, counted from 1; None if all losses were finite."""
    curve: tuple[CurvePoint, ...]
    noise: tuple[NoiseSample, ...]
    chance: Chance
    model: ModelFacts
    input_normalisation: InputNormalisation
    weights_loaded: str | None
    """Sentences on the tensors loaded and not loaded; None without a file of weights."""
    training_images: int
    """Number of training images in the data set."""
    validation_images: int
    peak_bytes: int
    """Peak memory of the device, as `Place.peak_bytes` measures it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training and its end, with either a result or a failure."""

    spec: TrainingSpec
    ended: Ending
    result: TrainingResult | None
    failure: Failure | None
    started_at: str
    wall_seconds: float
    """Time in the last process, validations and checkpoints included."""

    def __post_init__(self) -> None:
        """Check that the ending agrees with the result and the failure.

        Raises:
            ValueError: A result, or no failure, of a failed training; or the reverse.
        """
        ran = self.ended in (Ending.FINISHED, Ending.DIVERGED)
        if ran != (self.result is not None) or ran == (self.failure is not None):
            needed = "a result" if ran else "a failure"
            raise ValueError(f"a training that ended '{self.ended}' must have only {needed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSetting:
    """The settings of a data loader."""

    workers: int
    prefetch_factor: int | None
    """Number of batches that each worker loads ahead; None without workers."""
    pin_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSpec:
    """A sweep of the settings of the data loader, for one training."""

    training: TrainingSpec
    settings: tuple[LoaderSetting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRate:
    """The rates with one setting of the loader."""

    setting: LoaderSetting
    alone_images_per_second: float
    """The rate of the loader without a training."""
    fed_images_per_second: float
    """The rate of a training with this loader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The rates of the data loader and of the training step."""

    effective_batch: int
    micro_batch: int
    step_images_per_second: float
    """The rate of a training whose images are in memory."""
    rates: tuple[LoaderRate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """The settings of a study, from which its trainings follow."""

    variant: Variant
    device: DeviceRequest
    batches: tuple[int, ...]
    """Effective batches, ascending."""
    seeds: tuple[int, ...]
    images: int
    """Least number of training images that each training sees."""
    validations: int
    micro_batch: int | None
    """Upper bound for the micro-batch; None for the largest divisor of the batch that fits."""
    target: Target
    """The recipe that learning rates are scaled from; `batch` and `headroom` are not used."""
    data: DataSource
    workers: int | None
    """Processes that load images; None for the default of the device."""
    training_timeout_seconds: float
    weights: str | None = None
    input_normalisation: InputNormalisation | None = None

    @property
    def images_seen(self) -> int:
        """The smallest number from `images` on that every batch divides.

        With it all trainings see the same images, each equally often.
        """
        step = math.lcm(*self.batches)
        return -(-self.images // step) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A finished study."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: StudySettings
    trainings: tuple[Training, ...]
    loading: Loading | None
    """None if no training finished, or the sweep failed."""
