"""Sentences about a study, for the terminal and the report."""

from collections.abc import Sequence

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import REFERENCE, DeviceInfo
from bsprobe.records.units import format_rate
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
    """The recommendation, and the sentences on its certainty."""
    if chosen is None:
        return f"No training of {subject(study.settings)} finished: there is no recommendation."
    best, seen = chosen.best, study.settings.images_seen
    plan = best.trainings[0].spec.plan
    chance = _chance(best)
    return (
        f"Train {subject(study.settings)} with an effective batch of {best.batch} "
        f"({plan.micro_batch} x {plan.accumulation_steps}) and learning rate "
        f"{plan.learning_rate:.2e} ({plan.lr_rule} rule). After {seen} images the mean IoU is "
        f"{spread(best.mean_iou)}; the best constant prediction has {chance:.3f}. "
        f"{certainty(chosen)}{_left_out(study, chosen)}"
    )


def certainty(chosen: Verdict) -> str:
    """The sentences on the difference between the recommended batch and the others."""
    if not chosen.rivals:
        return "There is no other batch to compare it with."
    if any(rival.uncertainty is None for rival in chosen.rivals):
        return (
            "The batches are compared with one seed only: another seed may rank them differently."
        )
    apart = [_rival(rival) for rival in chosen.rivals if rival.is_told_apart]
    alike = [_rival(rival) for rival in chosen.rivals if not rival.is_told_apart]
    parts = []
    if apart:
        parts.append(f"Significantly worse (95 % interval): batch {', '.join(apart)}.")
    if alike:
        parts.append(f"Not significantly worse: batch {', '.join(alike)}.")
    return " ".join(parts)


def spread(value: Spread | None, digits: int = 3) -> str:
    """Mean and standard deviation over the seeds."""
    if value is None:
        return "-"
    if value.deviation is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ± {value.deviation:.{digits}f}"


def noise_words(noise: NoiseScale | None) -> str:
    """A noise scale with its interval, for a table: `8.8 (7.1 to 12)`."""
    if noise is None:
        return "-"
    if noise.images is None:
        return f"> {_count(noise.low)}"
    high = "inf" if noise.high is None else _count(noise.high)
    return f"{_count(noise.images)} ({_count(noise.low)} to {high})"


def noise_sentence(best: BatchSummary) -> str:
    """The sentences on the gradient noise scale of the recommended batch."""
    noise = best.noise
    if noise is None:
        return "Gradient noise scale: not known, because there are too few samples."
    where = (
        f"{noise.samples} samples in the second half of the training with batch {best.batch}, "
        f"seed {best.trainings[0].spec.seed}"
    )
    if noise.images is None:
        return (
            f"Gradient noise scale: above {_count(noise.low)} images, with no upper bound "
            f"({where}). The gradient cannot be distinguished from noise, and larger batches "
            "still gain."
        )
    high = "no upper bound" if noise.high is None else _count(noise.high)
    return (
        f"Gradient noise scale: {_count(noise.images)} images ({CONFIDENCE:.0%} interval "
        f"{_count(noise.low)} to {high}; {where}). Batches far above it gain little: an update "
        "with this many images makes half the progress of an update without noise, and one with "
        "three times as many makes three quarters (McCandlish et al. 2018). The scale depends on "
        "the weights; the table gives it for each batch."
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
    """The recommended setting of the data loader, and its effect on the step."""
    if loading is None:
        return "The data loader was not timed."
    rate = recommended_loading(loading)
    fed, step = rate.fed_images_per_second, loading.step_images_per_second
    where = " on the same processor" if device.kind is DeviceKind.CPU else ""
    effect = {
        Feeding.FULL: "The step does not wait for images",
        Feeding.SLOWED: f"The step does not wait for images, but loading them{where} slows it "
        f"down to {fed / step:.0%}",
        Feeding.STARVED: f"The step waits for images and runs at {fed / step:.0%} of its rate",
    }[feeding(loading, rate)]
    return (
        f"Data loader: use {setting_words(rate)}. The training runs at {format_rate(fed)} images/s "
        f"with it, at {format_rate(step)} with images in memory; the loader alone gives "
        f"{format_rate(rate.alone_images_per_second)}. {effect}."
    )


def caveats(study: Study) -> list[str]:
    """The notes on a study that apply to it."""
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
    """The batches of a study, and its verdict."""
    found = summaries(study.trainings)
    return found, verdict(found)


def name_of(training: Training) -> str:
    """The name of a training: `batch 8 (4 x 2), seed 0`."""
    plan = training.spec.plan
    return (
        f"batch {plan.effective_batch} ({plan.micro_batch} x {plan.accumulation_steps}), "
        f"seed {training.spec.seed}"
    )


def _count(images: float) -> str:
    """An estimated number of images, with one decimal below 10."""
    return f"{images:.1f}" if images < _WHOLE_FROM else f"{images:.0f}"


def _rival(rival: Rival) -> str:
    return f"{rival.batch} ({rival.behind:.3f} ± {rival.uncertainty:.3f} behind)"


def _left_out(study: Study, chosen: Verdict) -> str:
    """The sentence on batches with lost (failed or diverged) trainings, which are not compared."""
    compete = {chosen.best.batch, *(rival.batch for rival in chosen.rivals)}
    lost = [str(batch) for batch in study.settings.batches if batch not in compete]
    if not lost:
        return ""
    return f" Not compared, because of lost trainings: batch {', '.join(lost)}."


def _chance(best: BatchSummary) -> float:
    return next(t.result.chance.mean_iou for t in best.trainings if t.result is not None)


def _training_caveats(trainings: Sequence[Training]) -> list[str]:
    sentences = []
    for training in trainings:
        if training.result is not None and training.ended is Ending.DIVERGED:
            at, updates = training.result.diverged_at, training.spec.plan.updates
            sentences.append(
                f"{name_of(training)} diverged: the loss of update {at} of {updates} was not "
                "finite. Give a smaller --base-lr."
            )
        elif training.failure is not None:
            sentences.append(
                f"{name_of(training)}, {training.ended} in {training.failure.phase}: "
                f"{training.failure.words}"
            )
    return sentences


def _rate_caveat(settings: StudySettings) -> str:
    rate = settings.target.base_learning_rate
    if settings.weights is not None or rate != REFERENCE.base_learning_rate:
        return ""
    return (
        f"The reference rate {rate:.1e} is for fine-tuning ImageNet weights, but the network was "
        "trained from scratch: give a larger --base-lr, or --weights."
    )


def _norm_caveat(study: Study) -> str:
    norm = study.settings.variant.norm
    if norm is Norm.FROZEN and study.settings.weights is None:
        return "Frozen BatchNorm does not normalise without loaded weights: give --weights."
    models = (t.result.model for t in study.trainings if t.result is not None)
    if norm is not Norm.BATCH or all(model.batch_norms == 0 for model in models):
        return ""
    return (
        "BatchNorm takes its statistics from the micro-batch: if batches differ in it, part of "
        "the difference in mean IoU comes from BatchNorm. The gradient noise is measured with its "
        "running statistics."
    )


def _weights_caveat(trainings: Sequence[Training]) -> str:
    found = (t.result.weights_loaded for t in trainings if t.result is not None)
    return next((sentence for sentence in found if sentence is not None), "")


def _length_caveat(settings: StudySettings) -> str:
    return (
        f"All trainings saw the same {settings.images_seen} images in the same order. Longer "
        "trainings may rank the batches differently, and the best learning rate may differ from "
        "that of the rule (Shallue et al. 2019)."
    )


def _repetition(device: DeviceInfo) -> str:
    if device.kind is DeviceKind.CPU:
        return (
            "Another run with the same seeds, version of PyTorch and number of threads gives the "
            "same figures, except for times and memory."
        )
    return (
        "Another run with the same seeds gives other figures, because some of PyTorch's GPU "
        "kernels add in an order that is not fixed. The size of the difference is not known."
    )
