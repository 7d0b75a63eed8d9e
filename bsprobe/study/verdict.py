"""From trainings to a batch to train with, and how sure that is. Pure arithmetic.

A batch is judged by the mean over its seeds of the last mean IoU. Two batches are compared seed
by seed, since equal seeds begin with equal weights and see equal images: the interval of the mean
difference is Student's, at 95 %.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from bsprobe.study.noise_scale import NoiseScale, noise_scale
from bsprobe.study.plan import final_trainings
from bsprobe.study.records import Ending, LoaderRate, Loading, Training

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % points of Student's t with 1 to 10 degrees of freedom; the last for more."""
_AS_FAST = 0.95
"""A loader setting counts as fast as the fastest from this share of its rate on."""
_STARVED_BELOW = 0.95
"""Below this share of the step's own rate the device waits for images; above is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    mean: float
    deviation: float | None
    """Standard deviation (n - 1); None for one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """The result of the trainings of one effective batch."""

    batch: int
    trainings: tuple[Training, ...]
    """One a seed, the last one where several were tried."""
    finished: int
    mean_iou: Spread | None
    """Of the last validations; None where no training finished."""
    pixel_accuracy: Spread | None
    validation_loss: Spread | None
    seconds: Spread | None
    """Of training alone."""
    peak_bytes: int | None
    noise: NoiseScale | None

    @property
    def images_per_second(self) -> float | None:
        """Of training alone, loading included."""
        if self.seconds is None or not self.seconds.mean:
            return None
        return self.trainings[0].spec.images / self.seconds.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another batch beside the recommended one."""

    batch: int
    behind: float
    """Mean IoU of the recommended batch less this one's: the mean over the seeds of both."""
    uncertainty: float | None
    """Half the width of the 95 % interval of that difference; None for fewer than two seeds."""

    @property
    def is_told_apart(self) -> bool:
        """True where the interval of the difference leaves zero out."""
        return self.uncertainty is not None and self.behind > self.uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The batch with the highest mean IoU, and what is known of the others."""

    best: BatchSummary
    rivals: tuple[Rival, ...]


def summaries(trainings: Sequence[Training]) -> tuple[BatchSummary, ...]:
    """One summary a batch, ascending."""
    last = final_trainings(trainings)
    batches = sorted({t.spec.plan.effective_batch for t in last})
    return tuple(
        _summary(batch, tuple(t for t in last if t.spec.plan.effective_batch == batch))
        for batch in batches
    )


def verdict(found: Sequence[BatchSummary]) -> Verdict | None:
    """The batch to recommend, None where nothing finished.

    Only batches whose every seed finished compete: a mean over the seeds that did not diverge
    would flatter. Where all have lost a seed, those with the most that finished do.
    """
    most = max((each.finished / len(each.trainings) for each in found), default=0.0)
    rivals = [each for each in found if each.finished and _share(each) == most]
    if not rivals:
        return None
    best = max(rivals, key=lambda each: each.mean_iou.mean if each.mean_iou else 0.0)
    return Verdict(
        best=best,
        rivals=tuple(_rival(best, each) for each in rivals if each is not best),
    )


def recommended_loading(loading: Loading) -> LoaderRate:
    """The setting with the fewest workers that feeds training as fast as the fastest."""
    enough = max(rate.fed_images_per_second for rate in loading.rates) * _AS_FAST
    return min(
        (rate for rate in loading.rates if rate.fed_images_per_second >= enough),
        key=lambda rate: (rate.setting.workers, rate.setting.prefetch_factor or 0),
    )


class Feeding(Enum):
    """The effect of a data loader on the steps that it feeds."""

    FULL = auto()
    """They run as fast as with images in memory."""
    SLOWED = auto()
    """The images are there in time; that they are loaded meanwhile makes the steps slower."""
    STARVED = auto()
    """They wait for images."""


def feeding(loading: Loading, rate: LoaderRate) -> Feeding:
    """The effect of one setting of the loader on the steps."""
    step = loading.step_images_per_second
    if rate.fed_images_per_second >= step * _STARVED_BELOW:
        return Feeding.FULL
    return Feeding.STARVED if rate.alone_images_per_second < step else Feeding.SLOWED


def _share(summary: BatchSummary) -> float:
    return summary.finished / len(summary.trainings)


def _summary(batch: int, trainings: tuple[Training, ...]) -> BatchSummary:
    results = [t.result for t in trainings if t.ended is Ending.FINISHED and t.result is not None]
    ends = [result.curve[-1] for result in results]
    losses = [end.validation_loss for end in ends if end.validation_loss is not None]
    samples = [sample for t in trainings if t.result for sample in t.result.noise]
    return BatchSummary(
        batch=batch,
        trainings=trainings,
        finished=len(results),
        mean_iou=_spread([end.mean_iou for end in ends]),
        pixel_accuracy=_spread([end.pixel_accuracy for end in ends]),
        validation_loss=_spread(losses),
        seconds=_spread([end.seconds for end in ends]),
        peak_bytes=max((t.result.peak_bytes for t in trainings if t.result), default=None),
        noise=noise_scale(samples),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
    )


def _rival(best: BatchSummary, other: BatchSummary) -> Rival:
    scores, others = _by_seed(best), _by_seed(other)
    differences = [scores[seed] - others[seed] for seed in sorted(scores.keys() & others.keys())]
    uncertainty = None
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        freedom = len(differences) - 1
        uncertainty = error * _STUDENT[min(freedom, len(_STUDENT)) - 1]
    return Rival(
        batch=other.batch,
        behind=statistics.fmean(differences) if differences else _behind(best, other),
        uncertainty=uncertainty,
    )


def _behind(best: BatchSummary, other: BatchSummary) -> float:
    """The difference of the means, where no seed finished in both."""
    assert best.mean_iou is not None  # noqa: S101 - both have finished trainings
    assert other.mean_iou is not None  # noqa: S101 - as above
    return best.mean_iou.mean - other.mean_iou.mean


def _by_seed(summary: BatchSummary) -> dict[int, float]:
    return {
        t.spec.seed: t.result.curve[-1].mean_iou
        for t in summary.trainings
        if t.ended is Ending.FINISHED and t.result is not None
    }
