"""Checks of a file's content: numbers in range, and results that agree with their trials.

Types alone do not reveal a damaged digit, and no report should be made from a file whose parts
contradict each other.
"""

import dataclasses
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from bsprobe.records.bounds import ASKED, FIGURE, HELD, Bounds
from bsprobe.records.runs import Recommendation, Run, SearchMethod, VariantResult
from bsprobe.records.trials import Trial
from bsprobe.storage.codec import MalformedError


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
    """Check that the numbers of a run are in range and its parts agree.

    Raises:
        MalformedError: They are not; the message begins with the place.
    """
    check_figures(run)
    variants = run.settings.variants
    if not variants or len(set(variants)) < len(variants):
        raise MalformedError("$.settings.variants: empty, or with a duplicate")
    if [result.variant for result in run.results] != list(variants):
        raise MalformedError("$.results: not those of $.settings.variants, in the same order")
    for number, trial in enumerate(run.trials):
        place = f"$.trials[{number}]"
        if trial.spec.variant not in variants:
            raise MalformedError(f"{place}: its variant is not in $.settings.variants")
        if trial.source is not run.device.source:
            raise MalformedError(
                f"{place}: its source is {trial.source}, but the device's is {run.device.source}"
            )
    for number, result in enumerate(run.results):
        for complaint in _complaints(run, result):
            raise MalformedError(f"$.results[{number}]: {complaint}")


def _complaints(run: Run, result: VariantResult) -> Iterator[str]:
    boundary, item = result.boundary, result.recommendation
    if (result.prediction is not None) is not (run.settings.search is SearchMethod.GUIDED):
        yield "there must be a prediction if the search is guided, and only then"
    tried = [
        trial
        for trial in run.trials
        if trial.spec.variant == result.variant and trial.spec.accumulation_steps == 1
    ]
    if boundary.largest is not None and not _has(tried, boundary.largest, ran=True):
        yield f"the largest batch is {boundary.largest}, but no trial ran it"
    if boundary.first_failure is not None and not _has(tried, boundary.first_failure, ran=False):
        yield f"the first failure is batch {boundary.first_failure}, but no trial of it failed"
    multiple = run.settings.batch_multiple
    if boundary.is_exact and boundary.first_failure != (boundary.largest or 0) + multiple:
        yield (
            f"the boundary is {boundary.stop}, but its batches {boundary.largest} and "
            f"{boundary.first_failure} do not follow each other"
        )
    if (boundary.largest or 0) % multiple:
        yield f"the largest batch is {boundary.largest}, which is no multiple of {multiple}"
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
