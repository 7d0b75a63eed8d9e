"""A finished run, asked for its trials once more: its results must follow from them.

Nothing here repeats a rule: the results are computed by `course`, as in the run itself.
"""

import dataclasses
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from bsprobe._version import __version__
from bsprobe.analysis.course import Course, processes_by, recipe_by
from bsprobe.analysis.recommendation import limits, plan, search_trials, starred
from bsprobe.analysis.search import Process
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Recommendation, Run, TrainingPlan, VariantResult
from bsprobe.records.trials import Purpose, Trial, TrialSpec
from bsprobe.records.variants import Variant

RULES_SINCE: Final = (0, 2, 0)
"""The first version of bsprobe with the present rules of `course`; whoever changes a rule sets it
to the next version.

Version 0.1.0 did not run the safe batch, and planned DeepLabV2's updates for every network. Of
earlier runs only what has not changed is recomputed: the safe batch, learning rates and stars.
"""
_TEXTS: Final = ("caveats", "detail")
"""Fields with sentences, whose wording changes. Reports compute their notes anew."""
_CHANGED: Final = ("updates", "warmup_updates", "rate_formula")
"""Fields of a plan without a known rate that followed other rules in earlier versions."""


def contradictions(run: Run) -> Iterator[str]:
    """Yield the results of a run that do not follow from its trials; each begins with its place.

    Args:
        run: A run whose trials are trusted.
    """
    if _version_of(run) < RULES_SINCE:
        yield from _in_plans(run)
        return
    by = "" if run.environment.bsprobe == __version__ else _other_version(run)
    for found in _in_course(_without_evaluation(run)):
        yield found + by


def _version_of(run: Run) -> tuple[int, ...]:
    """The version that wrote a run; this one for a version that is no three numbers."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", run.environment.bsprobe)
    return RULES_SINCE if match is None else tuple(map(int, match.groups()))


def _other_version(run: Run) -> str:
    writer = reprlib.repr(run.environment.bsprobe)
    return f" (by the rules of bsprobe {__version__}; {writer} wrote the file)"


class _Missing(Exception):  # noqa: N818 - it ends the course, it is no error of bsprobe
    """The course asks for a trial that the run does not have."""


class _Silent:
    """A listener that does nothing."""

    def on_variant(self, variant: Variant) -> None: ...
    def on_trial(self, trial: Trial) -> None: ...
    def on_result(self, result: VariantResult) -> None: ...


def _in_course(run: Run) -> Iterator[str]:
    """Take the course of a run with its own trials, and compare the results."""

    def new_trial(spec: TrialSpec, process: Process, purpose: Purpose) -> Trial:
        del purpose
        fresh = " in a fresh process" if process is Process.FRESH else ""
        steps = f" x {spec.accumulation_steps}" if spec.accumulation_steps > 1 else ""
        raise _Missing(f"$.trials: the run needs one of batch {spec.batch_size}{steps}{fresh}")

    predictions = {each.variant: each.prediction for each in run.results}
    guided = {variant: each for variant, each in predictions.items() if each is not None}
    course = Course(
        run.settings,
        device=run.device,
        new_trial=new_trial,
        listener=_Silent(),
        known=run.trials,
        predict=guided.__getitem__ if guided else None,
    )
    try:
        results = course.results()
    except _Missing as missing:
        yield f"{missing}, by the results of the others"
        return
    yield from _differences(run.results, results, "$.results")
    for number, trial in enumerate(run.trials):
        failure, is_memory = trial.failure, trial.outcome is Outcome.OUT_OF_MEMORY
        if failure and is_memory and not failure.proves(trial.outcome, run.device.kind):
            evidence = reprlib.repr(failure.evidence)
            yield f"$.trials[{number}].failure.evidence: {evidence} does not show a lack of memory"
    for number, trial in enumerate(run.trials):
        if number >= len(course.trials) or trial != course.trials[number]:
            yield f"$.trials[{number}]: the run does not ask for it, by the results of the others"


def _without_evaluation(run: Run) -> Run:
    """Drop the last pass of trials before version 0.3 from their specifications.

    The trials and their results are the same as without it, apart from the peak of that pass.
    """

    def trial(old: Trial | None) -> Trial | None:
        return old and replace(old, spec=replace(old.spec, evaluation_resolution=None))

    def item(old: Recommendation | None) -> Recommendation | None:
        return old and replace(
            old, trial=trial(old.trial), synthetic_trial=trial(old.synthetic_trial)
        )

    if run.settings.evaluation_resolution is None:
        return run
    return replace(
        run,
        trials=tuple(filter(None, map(trial, run.trials))),
        results=tuple(
            replace(each, recommendation=item(each.recommendation)) for each in run.results
        ),
    )


def _in_plans(run: Run) -> Iterator[str]:
    """Recompute the rates and the stars of a run of an earlier version."""
    items = [each.recommendation for each in run.results if each.recommendation is not None]
    marked = {item.variant: item for item in starred(items)}
    for number, result in enumerate(run.results):
        if (item := result.recommendation) is None:
            continue
        place = f"$.results[{number}].recommendation"
        yield from _differences(item.starred, marked[item.variant].starred, f"{place}.starred")
        yield from _in_safe(run, item, place)
        yield from _in_plan(run, item.plan, item.variant, f"{place}.plan")
        alone = item.without_accumulation
        yield from _in_plan(run, alone, item.variant, f"{place}.without_accumulation")


def _in_safe(run: Run, item: Recommendation, place: str) -> Iterator[str]:
    """Recompute the safe batch; the best one followed another rule, but was never larger."""
    trials = search_trials(run.trials, item.variant)
    if not trials:
        yield f"{place}: no trial of the search ran"
        return
    found = limits(
        trials,
        candidates=range(item.largest, 0, -1),
        largest=item.largest,
        budget_bytes=run.settings.target.budget_bytes(run.device.capacity_bytes),
    )
    yield from _differences(item.safe, found.safe, f"{place}.safe")
    if item.best > item.safe:
        yield f"{place}.best: {item.best}, more than the safe batch"


def _in_plan(run: Run, made: TrainingPlan, variant: Variant, place: str) -> Iterator[str]:
    measured = [each.measurement for each in search_trials(run.trials, variant)]
    groups = measured[0].model.groups if measured and measured[0] is not None else ()
    again = plan(
        variant,
        recipe_by(run.trials, variant, run.settings),
        micro_batch=made.micro_batch,
        steps=made.accumulation_steps,
        groups=dict(groups),
        processes=processes_by(run.trials, variant, run.settings),
        ddp=run.settings.ddp,
    )
    if again.learning_rate is None:
        again = replace(again, **{field: getattr(made, field) for field in _CHANGED})
    yield from _differences(made, again, place)


def _differences(made: Any, again: Any, place: str) -> Iterator[str]:
    """Yield the leaves of a record that differ from those of the recomputed one."""
    if type(made) is type(again) and dataclasses.is_dataclass(made):
        for field in dataclasses.fields(made):
            if field.name not in _TEXTS:
                yield from _differences(
                    getattr(made, field.name), getattr(again, field.name), f"{place}.{field.name}"
                )
    elif isinstance(made, tuple) and isinstance(again, tuple) and len(made) == len(again):
        for number, pair in enumerate(zip(made, again, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif not _are_equal(made, again):
        yield f"{place}: {_words(made)} does not follow: the trials give {_words(again)}"


def _are_equal(made: Any, again: Any) -> bool:
    if isinstance(made, float) and isinstance(again, float):
        return math.isclose(made, again, rel_tol=1e-12)
    return bool(made == again)


def _words(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{len(value)} items"
    if dataclasses.is_dataclass(value):
        return f"a {type(value).__name__}"
    return "null" if value is None else reprlib.repr(value)
