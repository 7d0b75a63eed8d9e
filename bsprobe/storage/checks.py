"""Checks of a file's content: figures that can be, and results that follow from their trials.

Types alone do not show that a digit was lost: a table must not be printed from a file whose parts
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
    """Refuse figures that nothing can have: below zero, absurd, a batch of none.

    Raises:
        MalformedError: There is one; the message begins with its place.
    """
    _check(record, place, HELD)


def check_asked(settings: Any, *, place: str) -> None:
    """Refuse settings that the options of a command would not take.

    Raises:
        MalformedError: There is one; the message begins with its place.
    """
    _check(settings, place, {**HELD, **ASKED})


def _check(record: Any, place: str, bounds: Mapping[str, Bounds]) -> None:
    for where, field, number in _numbers(record, place, ""):
        if number not in (allowed := bounds.get(field, FIGURE)):
            raise MalformedError(f"{where}: {reprlib.repr(number)} is out of range ({allowed})")


def check_run(run: Run) -> None:
    """Refuse a run whose parts contradict each other.

    Raises:
        MalformedError: They do; the message begins with the place.
    """
    check_figures(run)
    variants = run.settings.variants
    if not variants or len(set(variants)) < len(variants):
        raise MalformedError("$.settings.variants: there is none, or one twice")
    if [result.variant for result in run.results] != list(variants):
        raise MalformedError("$.results: not one for each variant, in their order")
    for number, trial in enumerate(run.trials):
        place = f"$.trials[{number}]"
        if trial.spec.variant not in variants:
            raise MalformedError(f"{place}: its variant is none of the run's")
        if trial.source is not run.device.source:
            raise MalformedError(f"{place}: {trial.source}, but the device {run.device.source}")
    for number, result in enumerate(run.results):
        for complaint in _complaints(run, result):
            raise MalformedError(f"$.results[{number}]: {complaint}")


def _complaints(run: Run, result: VariantResult) -> Iterator[str]:
    boundary, item = result.boundary, result.recommendation
    if (result.prediction is not None) is not (run.settings.search is SearchMethod.GUIDED):
        yield "a prediction without a guided search, or none with one"
    tried = [
        trial
        for trial in run.trials
        if trial.spec.variant == result.variant and trial.spec.accumulation_steps == 1
    ]
    if boundary.largest is not None and not _has(tried, boundary.largest, ran=True):
        yield f"batch {boundary.largest} is the largest, and no trial ran it"
    if boundary.first_failure is not None and not _has(tried, boundary.first_failure, ran=False):
        yield f"batch {boundary.first_failure} is the first failure, and no trial shows it"
    if boundary.is_exact and boundary.first_failure != (boundary.largest or 0) + 1:
        yield f"{boundary.largest} and {boundary.first_failure} are no exact boundary"
    if boundary.stop == "nothing fits" and boundary.largest is not None:
        yield "nothing fits, and something does"
    if item is not None:
        yield from _complaints_of_plan(result, item)


def _complaints_of_plan(result: VariantResult, item: Recommendation) -> Iterator[str]:
    if item.variant != result.variant or item.largest != result.boundary.largest:
        yield "the recommendation is of another result"
    if not max(item.safe, item.best, item.plan.micro_batch) <= item.largest:
        yield "more is recommended than runs"
    for plan in (item.plan, item.without_accumulation):
        parts = plan.micro_batch * plan.accumulation_steps * plan.processes
        if plan.effective_batch != parts:
            yield f"an effective batch of {plan.effective_batch} is not what its parts make"
    if item.trial is not None:
        spec = item.trial.spec
        asked = (item.variant, item.plan.micro_batch, item.plan.accumulation_steps)
        if (spec.variant, spec.batch_size, spec.accumulation_steps) != asked:
            yield "the recommendation's trial ran something else"


def _has(trials: list[Trial], batch: int, *, ran: bool) -> bool:
    return any(trial.spec.batch_size == batch and trial.ran is ran for trial in trials)


def _numbers(value: Any, place: str, field: str) -> Iterator[tuple[str, str, float]]:
    """(place, name of the field, number) of every number in a record, however deep."""
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _numbers(getattr(value, each.name), f"{place}.{each.name}", each.name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{place}[{number}]", field)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, field, value
