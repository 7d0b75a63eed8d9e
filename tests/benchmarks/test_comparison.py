"""Predicted requests compared with histories fabricated from them, with one change each."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.validation.comparison import Comparison, Difference, Kind, compare
from benchmarks.validation.history import History, load_history
from benchmarks.validation.replay import replay_addresses
from benchmarks.validation.requests import recorded_requests
from bsprobe.simulate.explain.requests import (
    PredictedRequests,
    Request,
    predicted_requests,
)
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Kind as Memory
from bsprobe.simulate.timeline import Phase, Place, Section
from bsprobe.simulate.trace import fake_model
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.fabricated import FixedWorkspaces, Marks, fabricated
from tests.support.tiny_networks import VARIANT, TinyNet

SECTIONS = (Section.SETUP, Section.FIRST_STEP, Section.LATER_STEP)
WORKSPACE = 12_345
Predict = Callable[..., PredictedRequests]


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Predict:
    """Return a function that predicts two steps of a tiny network with one workspace size."""
    monkeypatch.setattr(fake_model, "build_model", TinyNet)

    def run(*plans: int) -> PredictedRequests:
        timeline = StepTracer(VARIANT).timeline(2)
        workspaces = FixedWorkspaces(tmp_path, *plans)
        return predicted_requests(
            timeline,
            2,
            SECTIONS,
            lambda ledger: Playback(timeline, 2, allocator=ledger, workspaces=workspaces),
        )

    return run


def loaded(requests: Sequence[Request], tmp_path: Path) -> tuple[History, Marks]:
    """Write and load a history of some requests; return it with the starts of its sections."""
    history, marks = fabricated(requests)
    path = tmp_path / "fabricated.json.gz"
    path.write_bytes(gzip.compress(json.dumps(history).encode()))
    return load_history(path), marks


def held_against(
    predicted: PredictedRequests, requests: Sequence[Request], tmp_path: Path
) -> Comparison:
    """Compare a prediction with a history of other requests."""
    history, marks = loaded(requests, tmp_path)
    assert replay_addresses(history) == history.result
    return compare(predicted, recorded_requests(history, marks, ()))


def moved(requests: Sequence[Request], number: int, by: int) -> list[Request]:
    """Return the requests with all ends after one of them moved, since ends count requests."""
    return [
        each
        if each.ends_before is None or each.ends_before <= number
        else replace(each, ends_before=each.ends_before + by)
        for each in requests
    ]


def without(requests: Sequence[Request], number: int) -> list[Request]:
    """Return the requests without one of them."""
    kept = moved(requests, number, -1)
    return [*kept[:number], *kept[number + 1 :]]


def with_one_more(requests: Sequence[Request], number: int, size: int) -> list[Request]:
    """Return the requests with one more, freed at once, before the one with a number."""
    kept = moved(requests, number, 1)
    extra = replace(requests[number], size_bytes=size, ends_before=number + 1, place="")
    return [*kept[:number], extra, *kept[number:]]


def test_requests_are_in_order_with_their_places_and_ends(predict: Predict) -> None:
    found = predict(WORKSPACE)
    first = [each for each in found.requests if each.section is Section.FIRST_STEP]
    convolution = next(n for n, each in enumerate(found.requests) if each.is_workspace)
    assert found.requests[convolution] == Request(
        section=Section.FIRST_STEP,
        size_bytes=WORKSPACE,
        place="forward: convolution in features.0, workspace",
        ends_before=convolution + 1,
        is_workspace=True,
        origin=(
            Place(phase=Phase.FORWARD, module="features.0", operator="convolution"),
            Memory.WORKSPACE,
        ),
    )
    # The output comes before its workspace: 2 maps of 8 channels at a quarter of 32 x 48, fp32.
    assert found.requests[convolution - 1].size_bytes == 2 * 8 * 8 * 12 * 4
    assert found.requests[convolution - 1].place == "forward: convolution in features.0"
    setup = [each for each in found.requests if each.section is Section.SETUP]
    assert all(each.ends_before is None for each in setup)
    # Two convolutions forward, two weight gradients, one input gradient; in each of two steps.
    assert [use.workspace_bytes for use in found.convolutions] == [WORKSPACE] * 10
    assert [found.requests[use.before].is_workspace for use in found.convolutions] == [True] * 10
    assert sum(each.is_workspace for each in first) == 5


def test_what_needs_no_workspace_makes_no_request(predict: Predict) -> None:
    found = predict(0)
    assert [use.workspace_bytes for use in found.convolutions] == [0] * 10
    assert not any(each.is_workspace for each in found.requests)
    assert len(found.requests) == len(predict(WORKSPACE).requests) - 10


@pytest.mark.parametrize("plan", [0, WORKSPACE])
def test_a_history_of_what_was_predicted_has_no_differences(
    predict: Predict, tmp_path: Path, plan: int
) -> None:
    predicted = predict(plan)
    count = len(predicted.requests)
    assert held_against(predicted, predicted.requests, tmp_path) == Comparison(
        predicted=count,
        recorded=count,
        matched=count,
        differences=(),
        convolutions=10,
        workspaces_equal=10,
    )


def test_one_missing_request_is_one_difference_and_is_named(
    predict: Predict, tmp_path: Path
) -> None:
    predicted = predict(WORKSPACE)
    number = next(
        n for n, each in enumerate(predicted.requests) if "upsample_bilinear2d_b" in each.place
    )
    found = held_against(predicted, without(predicted.requests, number), tmp_path)
    missing = predicted.requests[number]
    assert found.differences == (
        Difference(kind=Kind.NOT_RECORDED, predicted=missing, recorded=None),
    )
    assert found.matched == found.recorded == found.predicted - 1
    assert "predicted, not recorded" in found.differences[0].describe()
    assert (
        "backward: upsample_bilinear2d_backward in the loss | nothing"
        in found.differences[0].describe()
    )


def test_one_more_request_is_one_difference(predict: Predict, tmp_path: Path) -> None:
    predicted = predict(WORKSPACE)
    found = held_against(predicted, with_one_more(predicted.requests, 20, 77), tmp_path)
    (difference,) = found.differences
    assert difference.kind is Kind.NOT_PREDICTED
    assert difference.recorded is not None
    assert difference.recorded.size_bytes == 77
    assert "nothing | 77 B (77 B) backward pass" in difference.describe()
    assert found.workspaces_equal == 10, "a brief request beside no convolution is not a workspace"


def test_a_workspace_of_another_size_counts_against_the_convolution(
    predict: Predict, tmp_path: Path
) -> None:
    predicted = predict(WORKSPACE)
    number = predicted.convolutions[3].before
    changed = list(predicted.requests)
    changed[number] = replace(changed[number], size_bytes=99)
    found = held_against(predicted, changed, tmp_path)
    (difference,) = found.differences
    assert (difference.kind, difference.predicted) == (
        Kind.OTHER_SIZE,
        predicted.requests[number],
    )
    assert (found.workspaces_equal, found.convolutions) == (9, 10)


def test_a_workspace_where_none_was_predicted_counts_against_the_convolution(
    predict: Predict, tmp_path: Path
) -> None:
    predicted = predict(0)
    number = predicted.convolutions[3].before
    found = held_against(predicted, with_one_more(predicted.requests, number, 5_000_000), tmp_path)
    assert [each.kind for each in found.differences] == [Kind.NOT_PREDICTED]
    assert (found.workspaces_equal, found.convolutions) == (9, 10)


def test_what_lives_on_beside_a_convolution_is_no_workspace(
    predict: Predict, tmp_path: Path
) -> None:
    predicted = predict(0)
    number = predicted.convolutions[3].before
    requests = with_one_more(predicted.requests, number, 5_000_000)
    requests[number] = replace(requests[number], ends_before=None)
    found = held_against(predicted, requests, tmp_path)
    assert [each.kind for each in found.differences] == [Kind.NOT_PREDICTED]
    assert (found.workspaces_equal, found.convolutions) == (10, 10)


@pytest.mark.parametrize(("later", "kind"), [(4, Kind.LIVES_LONGER), (-1, Kind.LIVES_SHORTER)])
def test_what_is_given_back_at_another_moment_is_found(
    predict: Predict, tmp_path: Path, later: int, kind: Kind
) -> None:
    predicted = predict(WORKSPACE)
    number = next(
        n
        for n, each in enumerate(predicted.requests)
        if each.ends_before is not None and each.ends_before > n + 3
    )
    changed = list(predicted.requests)
    end = changed[number].ends_before
    assert end is not None
    changed[number] = replace(changed[number], ends_before=end + later)
    found = held_against(predicted, changed, tmp_path)
    assert [(each.kind, each.predicted) for each in found.differences] == [
        (kind, predicted.requests[number])
    ]
    assert found.matched == found.predicted


def test_a_stretch_that_is_not_to_be_compared_is_left_out(predict: Predict, tmp_path: Path) -> None:
    # An fp16 step whose update was skipped: the later step counts as the first one.
    predicted = predict(WORKSPACE)
    history, marks = loaded(predicted.requests, tmp_path)
    starts = [start for start, _ in marks]
    skipped = [(starts[0], Section.SETUP), (starts[1], None), (starts[2], Section.LATER_STEP)]
    recorded = recorded_requests(history, skipped, ())
    found = compare(predicted, recorded)
    first = sum(each.section is Section.FIRST_STEP for each in predicted.requests)
    assert found.recorded == found.predicted - first
    assert {each.kind for each in found.differences if each.recorded is None} == {Kind.NOT_RECORDED}
    assert sum(each.kind is Kind.NOT_RECORDED for each in found.differences) == first


def test_recorded_requests_bear_the_places_that_were_recorded(
    predict: Predict, tmp_path: Path
) -> None:
    predicted = predict(0)
    history, marks = loaded(predicted.requests, tmp_path)
    places = [f"function {number}" for number in range(len(predicted.requests))]
    recorded = recorded_requests(history, marks, places)
    assert [each and each.place for each in recorded] == places
