"""Training steps recorded by other projects compared with predictions: every tensor, in order."""

import functools
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import recordings
from benchmarks.recordings import CASES, CONVOLUTIONS, FOLDER, Case, compared, is_purpose
from benchmarks.validation.recorded_steps import (
    RecordedEvent,
    RecordedStep,
    RecordedWorkspace,
    load_recorded_steps,
)
from benchmarks.validation.step_blocks import PlayedStep, played_step
from benchmarks.validation.steps import (
    Kind,
    Peaks,
    StepComparer,
    StepDifference,
    could_serve,
    peaks,
    workspaces_by_operator,
)
from bsprobe.records.units import MIB
from bsprobe.simulate.timeline import (
    Action,
    Phase,
    Place,
    Recording,
    Section,
)
from bsprobe.simulate.timeline import Kind as Purpose

KINETO, KINETO_WORKERS, HTA = CASES
MADE = {KINETO.file: 611, KINETO_WORKERS.file: 611, HTA.file: 544}
by_file = pytest.mark.parametrize("case", CASES, ids=lambda case: case.file.split(".")[0])


@functools.cache
def traced(trace: Any) -> Recording:
    recording: Recording = trace()
    return recording


def content_of(case: Case) -> Any:
    with gzip.open(FOLDER / case.file, "rt", encoding="utf-8") as file:
        return json.load(file)


@by_file
def test_every_tensor_of_every_step_is_predicted_in_size_and_order(case: Case) -> None:
    steps = load_recorded_steps(FOLDER / case.file)
    for found in compared(case, traced(case.trace), steps):
        assert found.difference is None
        assert found.equal == found.recorded == found.predicted == MADE[case.file]


@pytest.mark.nightly
@by_file
def test_workspaces_are_those_of_convolutions_and_of_what_is_known(case: Case) -> None:
    step = load_recorded_steps(FOLDER / case.file)[0]
    found = workspaces_by_operator(traced(case.trace), step)
    assert found.keys() - CONVOLUTIONS == {operator for operator, _ in case.known}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("case", "whole_blocks_mib"), [(KINETO, 8.25), (KINETO_WORKERS, 8.125), (HTA, 6.3125)]
)
def test_the_peak_is_that_of_tensors_and_workspaces_and_of_blocks_left_whole(
    case: Case, whole_blocks_mib: float
) -> None:
    found = peaks(traced(case.trace), load_recorded_steps(FOLDER / case.file)[0])
    assert found.tensors_bytes < found.with_workspaces_bytes
    assert found.recorded_bytes - found.with_workspaces_bytes == whole_blocks_mib * MIB


@pytest.mark.nightly
@by_file
def test_the_peak_with_blocks_left_whole_is_that_of_the_simulated_allocator(case: Case) -> None:
    step = load_recorded_steps(FOLDER / case.file)[0]
    played = played_step(traced(case.trace), step)
    assert played.peak_bytes == pytest.approx(step.peak_bytes, rel=0.003)


def sizes_before_the_step_that_repeats(recording: Recording) -> list[int]:
    live: dict[int, int] = {}
    for section, events in recording.sections.items():
        if section is Section.LATER_STEP:
            break
        for action, subject in events:
            if action is Action.ALLOCATE:
                live[subject] = recording.storages[subject][2]
            elif action is Action.FREE:
                del live[subject]
    return sorted(live.values())


@pytest.mark.nightly
def test_what_is_there_before_a_timeline_begins_is_predicted_tensor_by_tensor() -> None:
    """The profiler records the block of some tensors, and the own size of those never freed."""
    found = sorted(size for _, size, _ in content_of(HTA)["initial"])
    expected = sizes_before_the_step_that_repeats(traced(HTA.trace))
    assert len(found) == len(expected) == 645
    assert all(
        size == asked or could_serve(size, asked)
        for size, asked in zip(found, expected, strict=True)
    )


@by_file
def test_a_recording_says_where_it_comes_from(case: Case) -> None:
    assert {"repo", "path", "commit", "licence"} <= content_of(case)["provenance"].keys()


@pytest.mark.parametrize("case", [KINETO, KINETO_WORKERS])
def test_the_peak_of_each_step_is_the_one_that_is_noted(case: Case) -> None:
    found = [step.peak_bytes for step in load_recorded_steps(FOLDER / case.file)]
    assert found == content_of(case)["peak_over_step_start_bytes"]


def test_the_steps_of_a_timeline_begin_and_end_alike() -> None:
    content = content_of(HTA)
    steps = load_recorded_steps(FOLDER / HTA.file)
    assert [sum(event.size_bytes for event in step.events) for step in steps] == [0] * 5
    assert {content["initial_bytes"] + step.peak_bytes for step in steps} == {content["peak_bytes"]}


CONVOLUTION = Place(phase=Phase.FORWARD, module="conv", operator="convolution")
NORM = Place(phase=Phase.FORWARD, module="norm", operator="norm")
LARGE = 3 * MIB


def recording(*events: tuple[Action, int]) -> Recording:
    storages = (
        (CONVOLUTION, Purpose.TEMPORARY, LARGE - 100),
        (NORM, Purpose.TEMPORARY, 100),
        (NORM, Purpose.TEMPORARY, LARGE),  # made before the step
    )
    return Recording(
        batch=1, storages=storages, scratches=(), sections={Section.LATER_STEP: events}
    )


PREDICTED = recording(
    (Action.FREE, 2), (Action.ALLOCATE, 0), (Action.ALLOCATE, 1), (Action.FREE, 1), (Action.FREE, 0)
)


def first_difference(
    *events: tuple[int, str], predicted: Recording = PREDICTED
) -> StepDifference | None:
    comparer = StepComparer(predicted, lambda place, _, name: name in ("", place.operator))
    return comparer.compare(step(events)).difference


def step(
    events: Sequence[tuple[int, str]], workspaces: Sequence[tuple[int, int]] = ()
) -> RecordedStep:
    return RecordedStep(
        events=tuple(RecordedEvent(size_bytes=size, by=by) for size, by in events),
        workspaces=tuple(
            RecordedWorkspace(after=after, size_bytes=size, by="") for after, size in workspaces
        ),
        peak_bytes=7,
    )


FREED, TAKEN, NORMED = (-LARGE, ""), (LARGE, "convolution"), (512, "norm")


def test_a_step_of_the_same_tensors_is_equal_whatever_ends_first_between_two() -> None:
    assert first_difference(FREED, TAKEN, NORMED, (-LARGE, ""), (-512, "")) is None


@pytest.mark.parametrize(
    ("events", "kind", "allocation"),
    [
        ((FREED, (LARGE - 512, "convolution")), Kind.OTHER_SIZE, 1),
        ((FREED, NORMED, TAKEN), Kind.OTHER_SIZE, 1),
        ((FREED, TAKEN, (512, "relu")), Kind.OTHER_OPERATOR, 2),
        ((FREED, TAKEN), Kind.NOT_RECORDED, 2),
        ((FREED, TAKEN, NORMED, (-512, ""), (-LARGE, ""), TAKEN), Kind.NOT_PREDICTED, 3),
        ((FREED, TAKEN, (-LARGE, ""), NORMED, (-512, "")), Kind.OTHER_FREES, 1),
        ((TAKEN,), Kind.OTHER_FREES, 0),
    ],
)
def test_the_first_difference_is_named_with_its_place(
    events: Sequence[tuple[int, str]], kind: Kind, allocation: int
) -> None:
    found = first_difference(*events)
    assert found is not None
    assert (found.kind, found.allocation) == (kind, allocation)


def test_a_difference_says_who_made_what() -> None:
    found = first_difference(FREED, TAKEN, (1024, "norm"))
    assert found is not None
    assert found.describe().splitlines() == [
        "allocation 2: another size",
        "    predicted 512 B by norm in norm",
        "    recorded  1024 B by norm",
    ]


def test_a_tensor_ends_as_the_block_in_which_it_was_made() -> None:
    larger = (LARGE + 512, "convolution")
    assert first_difference(FREED, larger, NORMED, (-LARGE - 512, ""), (-512, "")) is None
    found = first_difference(FREED, larger, NORMED, (-LARGE, ""), (-512, ""))
    assert found is not None
    assert found.kind is Kind.OTHER_FREES


@pytest.mark.parametrize(
    ("block", "asked", "fits"),
    [
        (512, 1, True),
        (1024, 1, False),  # the small pool splits everything
        (MIB, MIB, True),
        (MIB + 512, MIB, False),
        (LARGE, LARGE, True),
        (LARGE + MIB, LARGE, True),  # a remainder of 1 MiB is not split off
        (LARGE + MIB + 512, LARGE, False),
        (LARGE - 512, LARGE, False),
    ],
)
def test_a_block_can_serve_what_the_allocator_would_not_split_off(
    block: int, asked: int, *, fits: bool
) -> None:
    assert could_serve(block, asked) is fits


def test_a_workspace_counts_on_top_of_what_is_there_when_it_is_taken() -> None:
    found = peaks(PREDICTED, step([], workspaces=[(1, 100), (2, 50)]))
    assert found == Peaks(recorded_bytes=7, tensors_bytes=512, with_workspaces_bytes=562)
    assert workspaces_by_operator(PREDICTED, step([], workspaces=[(1, 9), (2, 9)])) == {
        "convolution": 1,
        "norm": 1,
    }


@pytest.mark.parametrize(
    ("purpose", "phase", "category", "is_same"),
    [
        (Purpose.GRADIENT, Phase.BACKWARD, "gradient", True),
        (Purpose.TEMPORARY, Phase.BACKWARD, "gradient", False),
        (Purpose.TEMPORARY, Phase.BACKWARD, "autograd detail", True),
        (Purpose.SAVED_ACTIVATION, Phase.FORWARD, "activation", True),
        (Purpose.SAVED_ACTIVATION, Phase.FORWARD, "autograd detail", False),
    ],
)
def test_a_category_of_the_profiler_is_a_purpose(
    purpose: Purpose, phase: Phase, category: str, *, is_same: bool
) -> None:
    place = Place(phase=phase, module="", operator="mul")
    assert is_purpose(place, purpose, category) is is_same


@pytest.mark.nightly
def test_the_script_prints_a_paragraph_of_80_columns_for_each_recording(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [replace(case, trace=functools.partial(traced, case.trace)) for case in CASES]
    monkeypatch.setattr(recordings, "CASES", cases)
    assert recordings.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  6 steps: 611 of 611 allocations equal, 611 predicted" in lines


def test_of_a_recording_that_differs_the_first_difference_is_printed() -> None:
    assert recordings.report(KINETO, PREDICTED).text.splitlines() == [
        "kineto_r50_nw0_a.json.gz",
        "  6 steps: 0 of 611 allocations equal, 2 predicted",
        "  allocation 0: others end before the next allocation",
        f"    predicted [{LARGE}]",
        "    recorded  []",
    ]


def test_a_tensor_takes_the_whole_of_a_block_whose_rest_is_too_small_to_be_split_off() -> None:
    """A request of 10 MiB gets its own segment, which the next request uses unsplit."""
    program = Recording(
        batch=1,
        storages=tuple((CONVOLUTION, Purpose.TEMPORARY, 10 * MIB - less) for less in (0, 512)),
        scratches=(),
        sections={
            Section.SETUP: (),
            Section.FIRST_STEP: ((Action.ALLOCATE, 0), (Action.FREE, 0)),
            Section.LATER_STEP: ((Action.ALLOCATE, 1), (Action.FREE, 1)),
        },
    )
    played = played_step(program, step([], workspaces=[(1, 512)]))
    assert played == PlayedStep(blocks=(10 * MIB,), peak_bytes=10 * MIB + 512)
