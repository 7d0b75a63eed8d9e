"""Checks of a file's content: numbers in range, and results that agree with their trials.

Types alone do not reveal a damaged digit, and no report should be made from a file whose parts
contradict each other.
"""

import dataclasses
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bsprobe.analysis.replay import contradictions
from bsprobe.records.bounds import ASKED, FIGURE, HELD, Bounds
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import (
    DeviceInfo,
    DeviceRequest,
    Recommendation,
    Run,
    SearchMethod,
    Settings,
    Target,
    VariantResult,
)
from bsprobe.records.trials import REPEATED, Trial
from bsprobe.storage.codec import MalformedError
from bsprobe.storage.trial_checks import device_complaints, requested_complaints, trial_complaints

if TYPE_CHECKING:
    from bsprobe.records.variants import Variant


def check_figures(record: Any, *, place: str = "$") -> None:
    """Check that the numbers of a record are in the range for files.

    Raises:
        MalformedError: A number is out of range; the message begins with its place.
    """
    _check(record, place, HELD)


def check_asked(settings: Any, *, place: str) -> None:
    """Check that the numbers of some settings are in the range for options.

    Raises:
        MalformedError: A number is out of range; the message begins with its place.
    """
    _check(settings, place, {**HELD, **ASKED})


def _check(record: Any, place: str, bounds: Mapping[str, Bounds]) -> None:
    for where, field, number in _numbers(record, place, ""):
        if number not in (allowed := bounds.get(field, FIGURE)):
            raise MalformedError(f"{where}: {reprlib.repr(number)} is out of range ({allowed})")


def check_run(run: Run) -> None:
    """Check that the numbers of a run are in range, its parts agree, and its results follow.

    Raises:
        MalformedError: They are not; the message begins with the place.
    """
    check_figures(run)
    check_settings(run.settings, run.device, place="$")
    if [result.variant for result in run.results] != list(run.settings.variants):
        raise MalformedError("$.results: not those of $.settings.variants, in the same order")
    check_trials(run.trials, run.settings, run.device, places=places_in("$.trials", run.trials))
    for number, result in enumerate(run.results):
        place = f"$.results[{number}]"
        _check_trials_of(run, result.recommendation, place)
        for complaint in _complaints(run, result):
            raise MalformedError(f"{place}: {complaint}")
    for contradiction in contradictions(run):
        raise MalformedError(contradiction)


def check_settings(settings: Settings, device: DeviceInfo, *, place: str) -> None:
    """Check that settings can be those of a run, and that the device is the one they ask for.

    Args:
        settings: The settings of a run or a journal.
        device: Its device.
        place: The place of both in the file, for messages.

    Raises:
        MalformedError: They are not; the message begins with the place.
    """
    variants = settings.variants
    if not variants or len(set(variants)) < len(variants):
        raise MalformedError(f"{place}.settings.variants: empty, or with a duplicate")
    check_rule(settings.target, place=place)
    if settings.seeks_validation_batch and settings.validation is None:
        raise MalformedError(f"{place}.settings.validation: none, but its batch is searched")
    check_device(device, settings.device, place=place)


def check_rule(target: Target, *, place: str) -> None:
    """Check that the rule of the learning rate is known, if there is one.

    Raises:
        MalformedError: It is not; the message begins with the place.
    """
    rule = target.lr_rule
    if rule is not None and rule not in tuple(LearningRateRule):
        raise MalformedError(f"{place}.settings.target.lr_rule: {reprlib.repr(rule)} is unknown")


def check_device(device: DeviceInfo, request: DeviceRequest, *, place: str) -> None:
    """Check that a device has consistent facts and is the requested one.

    Args:
        device: The device of a run, a study or a journal.
        request: The device that its settings ask for.
        place: The place of the device in the file, for messages.

    Raises:
        MalformedError: It is not; the message begins with the place.
    """
    for complaint in (*device_complaints(device), *requested_complaints(device, request)):
        raise MalformedError(f"{place}.device{complaint}")


def places_in(place: str, trials: Sequence[Trial]) -> list[str]:
    """Return the places of the items of a list."""
    return [f"{place}[{number}]" for number in range(len(trials))]


def check_trials(
    trials: Sequence[Trial], settings: Settings, device: DeviceInfo, *, places: Sequence[str]
) -> None:
    """Check that trials follow from the settings and have no figures of another kind of device.

    Args:
        trials: The trials of a run or a journal.
        settings: Its settings.
        device: Its device.
        places: The place of each trial in the file, for messages.

    Raises:
        MalformedError: They do not; the message begins with the place.
    """
    first: dict[tuple[Variant, str], tuple[str, object]] = {}
    for place, trial in zip(places, trials, strict=True):
        for complaint in trial_complaints(trial, settings, device):
            raise MalformedError(f"{place}{complaint}")
        for field, fact in _shared_facts(trial).items():
            where, known = first.setdefault((trial.spec.variant, field), (place, fact))
            if fact != known:
                raise MalformedError(
                    f"{place}.{field}: {reprlib.repr(fact)}, but {where} has {reprlib.repr(known)}"
                )


def _shared_facts(trial: Trial) -> dict[str, object]:
    """The facts that all trials of a variant share, by field: network, or PyTorch of a command."""
    if trial.script is not None:
        torch = trial.script.torch
        return {} if torch is None else {"script.torch": torch}
    if trial.measurement is None:
        return {}
    model = trial.measurement.model
    fields = ("parameters", "groups", "batch_norms", "checkpointed")
    return {f"measurement.model.{field}": getattr(model, field) for field in fields}


def _check_trials_of(run: Run, item: Recommendation | None, place: str) -> None:
    """Check that the trials of a recommendation are trials of the run."""
    for name in ("trial", "synthetic_trial") if item is not None else ():
        if (trial := getattr(item, name)) is not None:
            where = f"{place}.recommendation.{name}"
            check_trials([trial], run.settings, run.device, places=[where])
            if trial not in run.trials:
                raise MalformedError(f"{where}: it is none of $.trials")


def _complaints(run: Run, result: VariantResult) -> Iterator[str]:
    boundary, item = result.boundary, result.recommendation
    if (result.prediction is not None) is not (run.settings.search is SearchMethod.GUIDED):
        yield "there must be a prediction if the search is guided, and only then"
    tried = [
        trial
        for trial in run.trials
        if trial.spec.variant == result.variant
        and trial.spec.accumulation_steps == 1
        and trial.purpose not in REPEATED
        and (trial.fresh_process or not boundary.is_exact)
    ]
    process = " in a fresh process" if boundary.is_exact else ""
    if boundary.largest is not None and not _has(tried, boundary.largest, ran=True):
        yield f"the largest batch is {boundary.largest}, but no trial{process} ran it"
    if boundary.first_failure is not None and not _has(tried, boundary.first_failure, ran=False):
        yield (
            f"the first failure is batch {boundary.first_failure}, but no trial of it{process} "
            "failed"
        )
    multiple = run.settings.batch_multiple
    if boundary.is_exact and boundary.first_failure != (boundary.largest or 0) + multiple:
        yield (
            f"the boundary is {boundary.stop}, but its batches {boundary.largest} and "
            f"{boundary.first_failure} do not follow each other"
        )
    if boundary.stop == "nothing fits" and boundary.largest is not None:
        yield f"nothing fits, but the largest batch is {boundary.largest}"
    if item is not None and result.critical_growth:
        yield "memory grows, but a batch is recommended"
    if item is not None:
        yield from _complaints_of_plan(result, item)


def _complaints_of_plan(result: VariantResult, item: Recommendation) -> Iterator[str]:
    if item.variant != result.variant or item.largest != result.boundary.largest:
        yield "the recommendation has another variant or largest batch"
    if not max(item.safe, item.best, item.plan.micro_batch) <= item.largest:
        yield "a recommended batch exceeds the largest batch"
    for plan in (item.plan, item.without_accumulation):
        parts = plan.micro_batch * plan.accumulation_steps * plan.processes
        if plan.effective_batch != parts:
            yield (
                f"the effective batch is {plan.effective_batch}, but micro-batch times "
                f"accumulation steps times processes is {parts}"
            )
    if item.trial is not None:
        spec = item.trial.spec
        asked = (item.variant, item.plan.micro_batch, item.plan.accumulation_steps)
        if (spec.variant, spec.batch_size, spec.accumulation_steps) != asked:
            yield "the recommended trial differs from the recommended plan"


def _has(trials: list[Trial], batch: int, *, ran: bool) -> bool:
    return any(trial.spec.batch_size == batch and trial.ran is ran for trial in trials)


def _numbers(value: Any, place: str, field: str) -> Iterator[tuple[str, str, float]]:
    """Yield (place, name of the field, number) for every number in a record, recursively."""
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _numbers(getattr(value, each.name), f"{place}.{each.name}", each.name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{place}[{number}]", field)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, field, value
