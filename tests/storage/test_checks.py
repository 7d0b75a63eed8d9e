"""Tests of the checks of a file's content."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bsprobe.records.runs import Boundary, Prediction, Run, StopReason
from bsprobe.records.trials import Peak, Source, Validated, Validation
from bsprobe.records.units import GIB
from bsprobe.storage.checks import check_figures, check_run
from bsprobe.storage.codec import MalformedError
from bsprobe.storage.trial_checks import trial_complaints
from tests.support.builders import (
    AMP,
    DEVICE,
    HALF,
    VARIANT,
    failure,
    measurement,
    populated_run,
    probed_run,
    ran,
    settings,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return probed_run(tmp_path_factory.mktemp("run"), settings(VARIANT, AMP))


def test_a_run_of_bsprobe_passes_the_checks(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_run(run)
    check_run(populated_run(tmp_path_factory.mktemp("populated")))


def with_first(run: Run, **changes: Any) -> Run:
    """Replace fields of the first result."""
    return replace(run, results=(replace(run.results[0], **changes), *run.results[1:]))


def with_plan(run: Run, **changes: Any) -> Run:
    item = run.results[0].recommendation
    assert item is not None
    return with_first(run, recommendation=replace(item, **changes))


def with_micro_batch(run: Run) -> Run:
    item = run.results[0].recommendation
    assert item is not None
    return with_plan(run, plan=replace(item.plan, micro_batch=5, effective_batch=5))


CONTRADICTIONS: dict[str, tuple[Callable[[Run], Run], str]] = {
    "no variant": (
        lambda run: replace(run, settings=replace(run.settings, variants=())),
        "$.settings.variants: ",
    ),
    "a variant twice": (
        lambda run: replace(run, settings=replace(run.settings, variants=(VARIANT, VARIANT))),
        "$.settings.variants: ",
    ),
    "a result too few": (
        lambda run: replace(run, results=run.results[:1]),
        "$.results: ",
    ),
    "results swapped": (
        lambda run: replace(run, results=run.results[::-1]),
        "$.results: ",
    ),
    "a trial of another variant": (
        lambda run: replace(run, trials=(ran(1, variant=replace(VARIANT, classes=3)),)),
        "$.trials[0].spec.variant: its variant",
    ),
    "a predicted trial in a measurement": (
        lambda run: replace(run, trials=(replace(run.trials[0], source=Source.PREDICTED),)),
        "$.trials[0].source: its source is predicted",
    ),
    "a prediction in an ordinary search": (
        lambda run: with_first(run, prediction=Prediction(largest=3)),
        "$.results[0]: there must be a prediction",
    ),
    "a largest batch without a trial": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.MAX_BATCH, largest=1000), recommendation=None
        ),
        "$.results[0]: the largest batch is 1000",
    ),
    "a largest batch that failed": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.MAX_BATCH, largest=13), recommendation=None
        ),
        "$.results[0]: the largest batch is 13",
    ),
    "a first failure that ran": (
        lambda run: with_first(
            run,
            boundary=Boundary(stop=StopReason.MAX_BATCH, largest=4, first_failure=8),
            recommendation=None,
        ),
        "$.results[0]: the first failure is batch 8",
    ),
    "a proof with a gap": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.PROVEN, largest=11, first_failure=13)
        ),
        "$.results[0]: the boundary is proven, but its batches 11 and 13",
    ),
    "nothing fits, but there is a largest batch": (
        lambda run: with_first(run, boundary=Boundary(stop=StopReason.NOTHING_FITS, largest=8)),
        "$.results[0]: nothing fits, but",
    ),
    "another result's recommendation": (
        lambda run: with_plan(run, variant=AMP),
        "$.results[0]: the recommendation",
    ),
    "a recommendation above the largest": (
        lambda run: with_plan(run, safe=13),
        "$.results[0]: a recommended batch",
    ),
    "a plan with a wrong effective batch": (
        lambda run: with_plan(
            run, without_accumulation=replace(run.results[0].recommendation.plan, effective_batch=7)  # type: ignore[union-attr] # it is there
        ),
        "$.results[0]: the effective batch is 7",
    ),
    "a plan whose trial ran another batch": (
        with_micro_batch,
        "$.results[0]: the recommended trial",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "complaint"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_place(
    run: Run, change: Callable[[Run], Run], complaint: str
) -> None:
    with pytest.raises(MalformedError) as refused:
        check_run(change(run))
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (ran(0), "line 2.spec.batch_size: 0 is out of range"),
        (
            replace(ran(1), wall_seconds=-1.0),
            "line 2.wall_seconds: -1.0 is out of range",
        ),
        (
            replace(ran(1).spec, batch_size=2**40),
            "line 2.batch_size: 1099511627776 is out of range",
        ),
        (
            replace(DEVICE, capacity_bytes=0),
            "line 2.capacity_bytes: 0 is out of range",
        ),
        (
            replace(DEVICE, total_bytes=2**63),
            "line 2.total_bytes: 9223372036854775808 is out of range",
        ),
        (
            replace(measurement(), step_seconds=(0.5, 0.0)),
            "line 2.step_seconds[1]: 0.0 is out of range",
        ),
        (
            replace(measurement(), images_per_second=0.0),
            "line 2.images_per_second: 0.0 is out of range",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(record: Any, complaint: str) -> None:
    with pytest.raises(MalformedError) as refused:
        check_figures(record, place="line 2")
    before, _, bounds = str(refused.value).partition(" (")
    assert before == complaint
    assert bounds.endswith((" to 9223372036854775807)", " to 2097152)"))


def test_a_validation_has_either_a_peak_or_a_failure() -> None:
    asked = Validation(resolution=HALF)
    chosen = replace(settings(), validation=asked)
    peak = Peak(allocated_bytes=1, reserved_bytes=2)

    def complaints(found: Validated) -> list[str]:
        trial = ran(1)
        measured = replace(measurement(images=1), validation=found)
        trial = replace(trial, spec=replace(trial.spec, validation=asked), measurement=measured)
        return list(trial_complaints(trial, chosen, DEVICE))

    assert complaints(Validated(peak=peak)) == []
    for wrong in (Validated(), Validated(peak=peak, failure=failure())):
        (complaint,) = complaints(wrong)
        assert complaint.startswith(".measurement.validation: ")


@pytest.mark.parametrize(("limits", "is_refused"), [((11 * GIB, 24 * GIB), False), ((), True)])
def test_the_budget_of_a_rank_may_be_larger_than_the_limit_of_the_weakest_one(
    limits: tuple[int, ...],
    is_refused: bool,  # noqa: FBT001 - parametrized
) -> None:
    asked = settings(VARIANT)
    asked = replace(asked, device=replace(asked.device, rank_limits_bytes=limits))
    weakest = replace(DEVICE, limit_bytes=11 * GIB, capacity_bytes=11 * GIB)
    trial = replace(ran(4), budget_bytes=23 * GIB)
    found = [each for each in trial_complaints(trial, asked, weakest) if "budget" in each]
    assert bool(found) is is_refused
