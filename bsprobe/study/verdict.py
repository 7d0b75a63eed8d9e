"""The recommended batch of a study, and its differences from the other batches.

A batch is judged by its last mean IoU, averaged over its seeds. Two batches are compared seed by
seed, because equal seeds have equal weights at the start and equal images: the interval of the
mean difference is Student's, at 95 %.
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
"""A loader setting with at least this share of the fastest rate is as good as the fastest."""
_STARVED_BELOW = 0.95
"""Below this share of its rate from memory the step is slowed down; above it is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The mean and the spread of a figure over the seeds."""

    mean: float
    deviation: float | None
    """Standard deviation (n - 1); None for one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """The result of the trainings of one effective batch."""

    batch: int
    trainings: tuple[Training, ...]
    """The last training of each seed."""
    finished: int
    """Number of trainings that finished."""
    mean_iou: Spread | None
    """Of the last validations, as the next two; None if no training finished."""
    pixel_accuracy: Spread | None
    validation_loss: Spread | None
    seconds: Spread | None
    """Time spent on loading and updates."""
    peak_bytes: int | None
    """The highest peak of its trainings."""
    noise: NoiseScale | None

    @property
    def images_per_second(self) -> float | None:
        """The rate of training, loading included, validations not; None if not known."""
        if self.seconds is None or not self.seconds.mean:
            return None
        return self.trainings[0].spec.images / self.seconds.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The comparison of another batch with the recommended one."""

    batch: int
    behind: float
    """Mean IoU of the recommended batch minus that of this one, averaged over common seeds."""
    uncertainty: float | None
    """Half the width of the 95 % interval of that difference; None for fewer than two seeds."""

    @property
    def is_told_apart(self) -> bool:
        """True if the interval of the difference excludes zero."""
        return self.uncertainty is not None and self.behind > self.uncertainty


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The batch with the highest mean IoU, and its comparison with the others."""

    best: BatchSummary
    rivals: tuple[Rival, ...]


def summaries(trainings: Sequence[Training]) -> tuple[BatchSummary, ...]:
    """The summaries of all batches, ascending."""
    last = final_trainings(trainings)
    batches = sorted({t.spec.plan.effective_batch for t in last})
    return tuple(
        _summary(batch, tuple(t for t in last if t.spec.plan.effective_batch == batch))
        for batch in batches
    )


def verdict(found: Sequence[BatchSummary]) -> Verdict | None:
    """Choose the batch to recommend; None if no training finished.

    Only batches whose seeds all finished are compared, because a mean without the diverged seeds
    is too high. If there is none, those with the largest share of finished seeds are compared.
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
    """The setting with the fewest workers among those about as fast as the fastest."""
    enough = max(rate.fed_images_per_second for rate in loading.rates) * _AS_FAST
    return min(
        (rate for rate in loading.rates if rate.fed_images_per_second >= enough),
        key=lambda rate: (rate.setting.workers, rate.setting.prefetch_factor or 0),
    )


class Feeding(Enum):
    """The effect of a data loader on the training step."""

    FULL = auto()
    """The step runs as fast as with images in memory."""
    SLOWED = auto()
    """The step does not wait for images, but loading them at the same time slows it down."""
    STARVED = auto()
    """The step waits for images."""


def feeding(loading: Loading, rate: LoaderRate) -> Feeding:
    """The effect of one setting of the loader on the training step."""
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
    """The difference of the means if no seed finished in both."""
    assert best.mean_iou is not None  # noqa: S101 - both have finished trainings
    assert other.mean_iou is not None  # noqa: S101 - as above
    return best.mean_iou.mean - other.mean_iou.mean


def _by_seed(summary: BatchSummary) -> dict[int, float]:
    return {
        t.spec.seed: t.result.curve[-1].mean_iou
        for t in summary.trainings
        if t.ended is Ending.FINISHED and t.result is not None
    }
