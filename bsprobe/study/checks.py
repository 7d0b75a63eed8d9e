"""Checks of the content of a study and of its journal.

Trainings and learning rates must follow from the settings, and no training may be in a file twice.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import is_evidence
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import Source
from bsprobe.storage.checks import check_device, check_figures, check_rule
from bsprobe.storage.codec import MalformedError
from bsprobe.study.plan import MOST_WORKERS, counts, final_trainings, training_spec
from bsprobe.study.records import (
    CurvePoint,
    Ending,
    Study,
    StudySettings,
    Training,
    TrainingResult,
)
from bsprobe.study.verdict import summaries, verdict

_SAME: Final = 1e-9
"""Scores that differ by a smaller share differ by rounding."""


def check_study(study: Study) -> None:
    """Check that the numbers of a study are in range, and that its parts agree.

    Raises:
        MalformedError: They do not; the message begins with the place.
    """
    check_figures(study)
    settings = study.settings
    check_conditions(settings, study.device, place="$")
    places = [f"$.trainings[{number}]" for number in range(len(study.trainings))]
    check_trainings(study.trainings, settings, study.device, places=places)
    made = {(t.spec.plan.effective_batch, t.spec.seed) for t in study.trainings}
    if missing := [(b, s) for b in settings.batches for s in settings.seeds if (b, s) not in made]:
        batch, seed = missing[0]
        raise MalformedError(f"$.trainings: none of batch {batch} with seed {seed}")
    for complaint in _loading_complaints(study):
        raise MalformedError(f"$.loading{complaint}")


def check_conditions(settings: StudySettings, device: DeviceInfo, *, place: str) -> None:
    """Check that settings can be those of a study, and that the device is the one they ask for.

    Args:
        settings: The settings of a study or its journal.
        device: Its device.
        place: The place of both in the file, for messages.

    Raises:
        MalformedError: They are not; the message begins with the place.
    """
    for field in ("batches", "seeds"):
        values = getattr(settings, field)
        if not values or len(set(values)) < len(values):
            raise MalformedError(f"{place}.settings.{field}: empty, or with a duplicate")
    if list(settings.batches) != sorted(settings.batches) or min(settings.batches) < 1:
        raise MalformedError(f"{place}.settings.batches: not ascending, or not positive")
    check_rule(settings.target, place=place)
    if settings.target.base_learning_rate is None or settings.target.base_batch is None:
        raise MalformedError(f"{place}.settings.target: no learning rate, or none of a batch")
    check_device(device, settings.device, place=place)
    if device.source is not Source.MEASURED:
        raise MalformedError(f"{place}.device.source: {device.source}, but a study trains")


def check_trainings(
    trainings: Sequence[Training],
    settings: StudySettings,
    device: DeviceInfo,
    *,
    places: Sequence[str],
) -> None:
    """Check that trainings follow from the settings, and that none is there twice.

    Args:
        trainings: The trainings of a study or its journal.
        settings: Its settings.
        device: Its device.
        places: The place of each training in the file, for messages.

    Raises:
        MalformedError: They do not; the message begins with the place.
    """
    kept: dict[tuple[int, int, int], str] = {}
    results = [(place, t.result) for place, t in zip(places, trainings, strict=True) if t.result]
    for place, training in zip(places, trainings, strict=True):
        for complaint in _complaints(training, settings, device):
            raise MalformedError(f"{place}{complaint}")
        plan = training.spec.plan
        key = (plan.effective_batch, plan.micro_batch, training.spec.seed)
        if key in kept:
            raise MalformedError(f"{place}: the training of {kept[key]} again, whose result counts")
        if counts(training, device.kind):
            kept[key] = place
    for place, result in results:
        for name, value in _shared(result).items():
            if value != _shared(results[0][1])[name]:
                raise MalformedError(f"{place}.result.{name}: another one than of {results[0][0]}")


def _shared(result: TrainingResult) -> dict[str, object]:
    """The facts that all trainings of a study share: images, classes and network."""
    return {
        "training_images": result.training_images,
        "validation_images": result.validation_images,
        "chance": result.chance,
        "model": (result.model.parameters, result.model.groups),
        "curve": {len(point.class_iou) for point in result.curve},
    }


def _complaints(training: Training, settings: StudySettings, device: DeviceInfo) -> Iterator[str]:
    spec = training.spec
    batch, micro = spec.plan.effective_batch, spec.plan.micro_batch
    if batch not in settings.batches or spec.seed not in settings.seeds:
        yield ".spec: its batch or its seed is not in the settings"
        return
    if batch % micro or micro > (settings.micro_batch or batch):
        yield f".spec.plan.micro_batch: {micro} does not follow from the settings"
        return
    if settings.workers is None:
        most = 0 if device.kind is DeviceKind.CPU else MOST_WORKERS
        if spec.workers > most:
            yield f".spec.workers: {spec.workers}, more than the {most} by default"
    elif spec.workers != settings.workers:
        yield f".spec.workers: {spec.workers}, but the settings have {settings.workers}"
    asked = training_spec(settings, batch, micro, spec.seed, workers=spec.workers)
    for name, made, expected in (
        *((f"plan.{f}", getattr(spec.plan, f), getattr(asked.plan, f)) for f in _PLANNED),
        *((f, getattr(spec, f), getattr(asked, f)) for f in _ASKED),
    ):
        if made != expected:
            yield f".spec.{name}: it does not follow from the settings"
    if training.failure is not None and is_evidence(
        DeviceKind.SIMULATED, training.failure.evidence
    ):
        yield ".failure.evidence: it is of a prediction"
    if training.result is not None:
        yield from _result_complaints(training, training.result)


_PLANNED: Final = (
    *("accumulation_steps", "learning_rate", "group_learning_rates", "lr_rule", "updates"),
    *("warmup_updates", "processes", "ddp", "rate_formula"),
)
_ASKED: Final = (
    *("variant", "validations", "noise_steps", "data", "weights", "input_normalisation"),
)


def _result_complaints(training: Training, result: TrainingResult) -> Iterator[str]:
    updates = training.spec.plan.known_updates
    diverged = result.diverged_at
    if (diverged is None) is not (training.ended is Ending.FINISHED):
        yield f".result.diverged_at: {diverged}, but the training {training.ended}"
    if diverged is not None and not 1 <= diverged <= updates:
        yield f".result.diverged_at: {diverged}, but there are {updates} updates"
    if result.model.assumptions:
        yield ".result.model.assumptions: only a prediction has them"
    if (result.weights_loaded is None) is not (training.spec.weights is None):
        yield ".result.weights_loaded: it is given with a file of weights, and only then"
    yield from _curve_complaints(training, result)


def _curve_complaints(training: Training, result: TrainingResult) -> Iterator[str]:
    updates, curve = training.spec.plan.known_updates, result.curve
    diverged = result.diverged_at
    reached = [point.updates for point in curve]
    if not curve or reached[0] != 0 or reached != sorted(set(reached)):
        yield ".result.curve: it must begin before the first update and go on ascending"
        return
    if reached[-1] > updates or (diverged is None and reached[-1] != updates):
        yield f".result.curve: it ends after {reached[-1]} updates, not after {updates}"
    for number, sample in enumerate(result.noise):
        if not 1 <= sample.small_batch < sample.big_batch:
            yield f".result.noise[{number}]: not of a small and a big batch"
    if len({len(point.class_iou) for point in curve}) > 1:
        yield ".result.curve: the points have different numbers of classes"
    for number, point in enumerate(curve):
        for complaint in _point_complaints(training, point):
            yield f".result.curve[{number}]{complaint}"


def _point_complaints(training: Training, point: CurvePoint) -> Iterator[str]:
    batch = training.spec.plan.effective_batch
    if point.images != point.updates * batch:
        yield f".images: {point.images}, but {point.updates} updates of {batch} images"
    if (point.training_loss is None) is not (point.updates == 0):
        yield ".training_loss: there is one after updates, and only then"
    present = [iou for iou in point.class_iou if iou is not None]
    mean = math.fsum(present) / len(present) if present else 0.0
    if not math.isclose(point.mean_iou, mean, rel_tol=_SAME, abs_tol=_SAME):
        yield f".mean_iou: {point.mean_iou:g}, but the classes give {mean:g}"


def _loading_complaints(study: Study) -> Iterator[str]:
    """The sweep of the loader is made for the first training of the best batch."""
    if (loading := study.loading) is None:
        return
    chosen = verdict(summaries(final_trainings(study.trainings)))
    if chosen is None:
        yield ": no training finished, but there are rates"
        return
    spec = next(t.spec for t in chosen.best.trainings if t.result is not None)
    swept = (loading.effective_batch, loading.micro_batch)
    if swept != (spec.plan.effective_batch, spec.plan.micro_batch):
        yield f".effective_batch: {swept[0]} in micro-batches of {swept[1]} is not the best batch"
    if not loading.rates or len({rate.setting for rate in loading.rates}) < len(loading.rates):
        yield ".rates: empty, or with a setting twice"
