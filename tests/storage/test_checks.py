"""A file whose parts contradict each other is refused by the place that does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bsprobe.records.runs import Boundary, Prediction, Run, StopReason
from bsprobe.records.trials import Source
from bsprobe.storage.checks import check_figures, check_run
from bsprobe.storage.codec import MalformedError
from tests.support.builders import (
    AMP,
    DEVICE,
    VARIANT,
    measurement,
    populated_run,
    probed_run,
    ran,
    settings,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return probed_run(tmp_path_factory.mktemp("run"), settings(VARIANT, AMP))


def test_a_run_as_it_is_made_contradicts_nothing(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_run(run)
    check_run(populated_run(tmp_path_factory.mktemp("populated")))


def with_first(run: Run, **changes: Any) -> Run:
    """The first result with fields replaced."""
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
        "$.settings.variants: there is none, or one twice",
    ),
    "a variant twice": (
        lambda run: replace(run, settings=replace(run.settings, variants=(VARIANT, VARIANT))),
        "$.settings.variants: there is none, or one twice",
    ),
    "a result too few": (
        lambda run: replace(run, results=run.results[:1]),
        "$.results: not one for each variant, in their order",
    ),
    "results swapped": (
        lambda run: replace(run, results=run.results[::-1]),
        "$.results: not one for each variant, in their order",
    ),
    "a trial of another variant": (
        lambda run: replace(run, trials=(ran(1, variant=replace(VARIANT, classes=3)),)),
        "$.trials[0]: its variant is none of the run's",
    ),
    "a measured trial in a prediction": (
        lambda run: replace(run, device=replace(DEVICE, source=Source.PREDICTED)),
        "$.trials[0]: measured, but the device predicted",
    ),
    "a prediction where none was to guide": (
        lambda run: with_first(run, prediction=Prediction(largest=3)),
        "$.results[0]: a prediction without a guided search, or none with one",
    ),
    "a largest batch that nobody ran": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.MAX_BATCH, largest=1000), recommendation=None
        ),
        "$.results[0]: batch 1000 is the largest, and no trial ran it",
    ),
    "a largest batch that failed": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.MAX_BATCH, largest=13), recommendation=None
        ),
        "$.results[0]: batch 13 is the largest, and no trial ran it",
    ),
    "a first failure that ran": (
        lambda run: with_first(
            run,
            boundary=Boundary(stop=StopReason.MAX_BATCH, largest=4, first_failure=8),
            recommendation=None,
        ),
        "$.results[0]: batch 8 is the first failure, and no trial shows it",
    ),
    "a proof with a gap": (
        lambda run: with_first(
            run, boundary=Boundary(stop=StopReason.PROVEN, largest=8, first_failure=13)
        ),
        "$.results[0]: 8 and 13 are no exact boundary",
    ),
    "nothing fits, yet something": (
        lambda run: with_first(run, boundary=Boundary(stop=StopReason.NOTHING_FITS, largest=8)),
        "$.results[0]: nothing fits, and something does",
    ),
    "another result's recommendation": (
        lambda run: with_plan(run, variant=AMP),
        "$.results[0]: the recommendation is of another result",
    ),
    "a recommendation above the largest": (
        lambda run: with_plan(run, safe=13),
        "$.results[0]: more is recommended than runs",
    ),
    "a plan that does not multiply": (
        lambda run: with_plan(
            run, without_accumulation=replace(run.results[0].recommendation.plan, effective_batch=7)  # type: ignore[union-attr] # it is there
        ),
        "$.results[0]: an effective batch of 7 is not what its parts make",
    ),
    "a plan whose trial ran something else": (
        with_micro_batch,
        "$.results[0]: the recommendation's trial ran something else",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "complaint"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(
    run: Run, change: Callable[[Run], Run], complaint: str
) -> None:
    with pytest.raises(MalformedError) as refused:
        check_run(change(run))
    assert str(refused.value) == complaint


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (ran(0), "line 2.spec.batch_size: 0 is out of range"),
        (
            replace(ran(1), wall_seconds=-1.0),
            "line 2.wall_seconds: -1.0 is out of range",
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
def test_figures_that_nothing_can_have_are_refused(record: Any, complaint: str) -> None:
    with pytest.raises(MalformedError) as refused:
        check_figures(record, place="line 2")
    said, _, bounds = str(refused.value).partition(" (")
    assert (said, bounds.endswith(" to 9223372036854775807)")) == (complaint, True)
