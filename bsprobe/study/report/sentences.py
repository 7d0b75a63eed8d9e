"""The words that terminal and markdown share about a study."""

from collections.abc import Sequence

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import REFERENCE, DeviceInfo
from bsprobe.records.variants import Norm, labels
from bsprobe.study.noise_scale import CONFIDENCE, NoiseScale
from bsprobe.study.records import Ending, LoaderRate, Loading, Study, StudySettings, Training
from bsprobe.study.verdict import (
    BatchSummary,
    Feeding,
    Rival,
    Spread,
    Verdict,
    feeding,
    recommended_loading,
    summaries,
    verdict,
)

_WHOLE_FROM = 10


def subject(settings: StudySettings) -> str:
    """The subject of the study: `deeplabv2-mini at 64x128, fp32 / batch`."""
    variant = settings.variant
    return f"{variant.model} at {variant.resolution}, {labels((variant,))[variant]}"


def answer(study: Study, chosen: Verdict | None) -> str:
    """The study in a sentence, and how sure it is in another."""
    if chosen is None:
        return f"No training of {subject(study.settings)} finished: nothing can be recommended."
    best, seen = chosen.best, study.settings.images_seen
    plan = best.trainings[0].spec.plan
    chance = _chance(best)
    return (
        f"Train {subject(study.settings)} with an effective batch of {best.batch} "
        f"({plan.micro_batch} x {plan.accumulation_steps}) and learning rate "
        f"{plan.learning_rate:.2e} ({plan.lr_rule} rule): after {seen} images its mean IoU is "
        f"{spread(best.mean_iou)}, where the best constant prediction has {chance:.3f}. "
        f"{certainty(chosen)}{_left_out(study, chosen)}"
    )


def certainty(chosen: Verdict) -> str:
    """The sentence on how well the recommended batch is told apart from the others."""
    if not chosen.rivals:
        return "There is no other batch to compare it with."
    if any(rival.uncertainty is None for rival in chosen.rivals):
        return "One seed tells nothing of the spread: another may put another batch first."
    apart = [_rival(rival) for rival in chosen.rivals if rival.is_told_apart]
    alike = [_rival(rival) for rival in chosen.rivals if not rival.is_told_apart]
    parts = []
    if apart:
        parts.append(f"Told apart from it at 95 %: batch {', '.join(apart)}.")
    if alike:
        parts.append(f"Not told apart from it at 95 %: batch {', '.join(alike)}.")
    return " ".join(parts)


def spread(value: Spread | None, digits: int = 3) -> str:
    """Mean and standard deviation over the seeds."""
    if value is None:
        return "-"
    if value.deviation is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.deviation:.{digits}f}"


def noise_words(noise: NoiseScale | None) -> str:
    """A noise scale with its interval, in the fewest words."""
    if noise is None:
        return "-"
    if noise.images is None:
        return f"> {_count(noise.low)}"
    high = "inf" if noise.high is None else _count(noise.high)
    return f"{_count(noise.images)} ({_count(noise.low)} to {high})"


def noise_sentence(best: BatchSummary) -> str:
    """The batch beyond which a larger one buys little."""
    noise = best.noise
    if noise is None:
        return "The gradient noise scale is not known: there were too few samples."
    where = (
        f"{noise.samples} samples in the second half of the training with batch {best.batch}, "
        f"seed {best.trainings[0].spec.seed}"
    )
    if noise.images is None:
        return (
            f"Gradient noise scale: above {_count(noise.low)} images, with no upper bound "
            f"({where}): what is left of the gradient is not told apart from noise, and larger "
            "batches still buy something."
        )
    high = "no upper bound" if noise.high is None else _count(noise.high)
    return (
        f"Gradient noise scale: {_count(noise.images)} images ({CONFIDENCE:.0%} interval "
        f"{_count(noise.low)} to {high}; {where}). Batches well above it buy little: an update of "
        "that many images gains half of what an update without noise would, one of three times as "
        "many three quarters (McCandlish et al. 2018). Other weights have other noise: see the "
        "table."
    )


def setting_words(rate: LoaderRate) -> str:
    """A setting of the loader: `2 workers, prefetch 2, pinned`."""
    setting = rate.setting
    words = [f"{setting.workers} worker{'' if setting.workers == 1 else 's'}"]
    if setting.prefetch_factor is not None:
        words.append(f"prefetch {setting.prefetch_factor}")
    if setting.pin_memory:
        words.append("pinned")
    return ", ".join(words)


def loading_sentence(loading: Loading | None, device: DeviceInfo) -> str:
    """The sentence on whether the device waits for its images, and what to set."""
    if loading is None:
        return "The data loader was not timed."
    rate = recommended_loading(loading)
    fed, step = rate.fed_images_per_second, loading.step_images_per_second
    where = ", on the same processor," if device.kind is DeviceKind.CPU else ""
    effect = {
        Feeding.FULL: "the step is not starved",
        Feeding.SLOWED: f"the step does not wait for images, but loading them meanwhile{where} "
        f"slows it down to {fed / step:.0%}",
        Feeding.STARVED: f"the step waits for images and gets {fed / step:.0%} of what it could "
        "take",
    }[feeding(loading, rate)]
    return (
        f"Data loader: use {setting_words(rate)}. The step takes {step:.3g} images/s from "
        f"memory; fed so it takes {fed:.3g}, and the loader alone gives "
        f"{rate.alone_images_per_second:.3g}: {effect}."
    )


def caveats(study: Study) -> list[str]:
    """Other sentences on a study, only where they apply."""
    return [
        sentence
        for sentence in (
            *_training_caveats(study.trainings),
            _rate_caveat(study.settings),
            _norm_caveat(study),
            _weights_caveat(study.trainings),
            _length_caveat(study.settings),
            _repetition(study.device),
        )
        if sentence
    ]


def chosen_of(study: Study) -> tuple[tuple[BatchSummary, ...], Verdict | None]:
    """The summaries of a study and its verdict."""
    found = summaries(study.trainings)
    return found, verdict(found)


def name_of(training: Training) -> str:
    """`batch 8 (4 x 2), seed 0`."""
    plan = training.spec.plan
    return (
        f"batch {plan.effective_batch} ({plan.micro_batch} x {plan.accumulation_steps}), "
        f"seed {training.spec.seed}"
    )


def _count(images: float) -> str:
    """A number of images that is an estimate: two digits that say something."""
    return f"{images:.1f}" if images < _WHOLE_FROM else f"{images:.0f}"


def _rival(rival: Rival) -> str:
    return f"{rival.batch} ({rival.behind:.3f} ± {rival.uncertainty:.3f} behind)"


def _left_out(study: Study, chosen: Verdict) -> str:
    """Sentences about the batches that could not compete."""
    compete = {chosen.best.batch, *(rival.batch for rival in chosen.rivals)}
    lost = [str(batch) for batch in study.settings.batches if batch not in compete]
    if not lost:
        return ""
    return f" Batch {', '.join(lost)} lost trainings and does not compete."


def _chance(best: BatchSummary) -> float:
    return next(t.result.chance.mean_iou for t in best.trainings if t.result is not None)


def _training_caveats(trainings: Sequence[Training]) -> list[str]:
    sentences = []
    for training in trainings:
        if training.result is not None and training.ended is Ending.DIVERGED:
            at, updates = training.result.diverged_at, training.spec.plan.updates
            sentences.append(
                f"{name_of(training)} diverged: the loss of update {at} of {updates} was not "
                "finite. Try a smaller --base-lr."
            )
        elif training.failure is not None:
            sentences.append(
                f"{name_of(training)} ended in {training.failure.phase}, {training.ended}: "
                f"{training.failure.words}"
            )
    return sentences


def _rate_caveat(settings: StudySettings) -> str:
    rate = settings.target.base_learning_rate
    if settings.weights is not None or rate != REFERENCE.base_learning_rate:
        return ""
    return (
        f"The reference rate {rate:.1e} is for fine-tuning ImageNet weights, and here "
        "the network learnt from scratch: it wants a larger --base-lr, or --weights."
    )


def _norm_caveat(study: Study) -> str:
    norm = study.settings.variant.norm
    if norm is Norm.FROZEN and study.settings.weights is None:
        return "Frozen BatchNorm without loaded weights normalises nothing: give --weights."
    models = (t.result.model for t in study.trainings if t.result is not None)
    if norm is not Norm.BATCH or all(model.batch_norms == 0 for model in models):
        return ""
    return (
        "BatchNorm statistics see the images of a micro-batch: part of the difference between "
        "batches that are not accumulated is theirs. For the gradient noise BatchNorm used its "
        "running statistics, so that images do not influence each other."
    )


def _weights_caveat(trainings: Sequence[Training]) -> str:
    found = (t.result.weights_loaded for t in trainings if t.result is not None)
    return next((sentence for sentence in found if sentence is not None), "")


def _length_caveat(settings: StudySettings) -> str:
    return (
        f"All trainings saw the same {settings.images_seen} images in the same order. Longer ones "
        "may rank the batches differently, and learning-rate rules are starting points, not "
        "promises (Shallue et al. 2019)."
    )


def _repetition(device: DeviceInfo) -> str:
    if device.kind is DeviceKind.CPU:
        return (
            "Another run with the same seeds, PyTorch and number of threads gives the same "
            "figures, times and memory aside."
        )
    return (
        "Another run with the same seeds begins alike, but on a GPU PyTorch adds some gradients "
        "in an order that is not fixed: its figures differ, by how much is not known."
    )
