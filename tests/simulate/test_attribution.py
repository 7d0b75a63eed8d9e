"""Recorded trials in the words of the prediction; the records are fabricated from predictions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.explanations import (
    NOT_ATTRIBUTED,
    Allocation,
    Explanation,
    RecordedTrial,
    by_kind,
    by_module,
    by_operator,
)
from bsprobe.records.trials import Source, TrialSpec
from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.allocator import CachingAllocator
from bsprobe.simulate.explain.attribution import explain_recorded, section_of
from bsprobe.simulate.explain.explain import Card, explain
from bsprobe.simulate.playback import Memory, Playback
from bsprobe.simulate.timeline import Kind, Section, Timeline
from bsprobe.simulate.trace import fake_model
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.fabricated import FixedWorkspaces
from tests.support.recorded_steps import CAPACITY, OUTSIDE, recorded
from tests.support.tiny_networks import VARIANT, TinyNet, TwoHeadedNet

SPEC = TrialSpec(variant=VARIANT, batch_size=2)
WORKSPACE = 241 * 512
"""More than any tensor of the tiny network takes, so that the peak is in a convolution; a multiple
of what the allocator rounds to."""
NewPlayback = Callable[[Memory], Playback]


@pytest.fixture
def timeline(monkeypatch: pytest.MonkeyPatch) -> Timeline:
    monkeypatch.setattr(fake_model, "build_model", TinyNet)
    return StepTracer(VARIANT).timeline(2)


@pytest.fixture
def with_workspaces(timeline: Timeline, tmp_path: Path) -> Callable[[int], NewPlayback]:
    """Plays the step with convolutions that all take one and the same workspace."""

    def plan(size: int) -> NewPlayback:
        workspaces = FixedWorkspaces(tmp_path, size)
        return lambda memory: Playback(timeline, 2, allocator=memory, workspaces=workspaces)

    return plan


def predicted(timeline: Timeline, new_playback: NewPlayback) -> Explanation:
    card = Card(
        capacity_bytes=CAPACITY,
        outside_allocator_bytes=OUTSIDE,
        total_bytes=CAPACITY,
        new_allocator=CachingAllocator,
        new_playback=lambda _timeline, _batch, memory: new_playback(memory),
    )
    return explain(timeline, SPEC, card)


def without_slopes(found: Explanation) -> set[Allocation]:
    return {replace(each, per_image_bytes=0) for each in found.allocations}


def not_attributed(found: Explanation) -> list[Allocation]:
    return [each for each in found.allocations if each.kind == NOT_ATTRIBUTED]


def assert_adds_up(found: Explanation, trial: RecordedTrial) -> None:
    for rows in (by_kind(found), by_operator(found), by_module(found, 1), by_module(found, 3)):
        total = sum(row.size_bytes for row in rows if row.depth == 0)
        assert total == trial.measurement.peak_bytes
    assert found.rounding_bytes >= 0


def test_a_record_of_what_was_predicted_is_told_as_the_prediction(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    plan = with_workspaces(WORKSPACE)
    snapshot, trial = recorded(timeline, SPEC, plan)
    found, expected = explain_recorded(snapshot, trial, timeline, plan), predicted(timeline, plan)
    assert without_slopes(found) == without_slopes(expected)
    assert (found.phase, found.module, found.operator) == (
        expected.phase,
        expected.module,
        expected.operator,
    )
    assert found.peak_bytes == expected.peak_bytes == trial.measurement.peak_bytes
    assert (found.source, found.scales, found.fits) == (Source.MEASURED, False, True)
    assert found.capacity_bytes == CAPACITY
    # Its kernels are allocations and frees of their own: there are more events, no other levels.
    timelines = found.timeline, expected.timeline
    assert [mark.phase for mark in timelines[0].marks] == ["forward", "backward", "optimizer"]
    for series in zip(*((*t.by_kind, *t.by_module) for t in timelines), strict=True):
        assert series[0].name == series[1].name
        assert max(series[0].sizes_bytes) == max(series[1].sizes_bytes)
    assert max(timelines[0].reserved_bytes) == max(timelines[1].reserved_bytes)
    assert_adds_up(found, trial)


def test_a_workspace_of_another_size_is_still_that_of_its_convolution(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    snapshot, trial = recorded(timeline, SPEC, with_workspaces(3 * WORKSPACE))
    found = explain_recorded(snapshot, trial, timeline, with_workspaces(WORKSPACE))
    expected = predicted(timeline, with_workspaces(3 * WORKSPACE))
    assert without_slopes(found) == without_slopes(expected)
    assert any(each.kind == Kind.WORKSPACE for each in found.allocations)
    assert_adds_up(found, trial)


def test_a_workspace_where_none_was_predicted_is_that_of_its_convolution(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    snapshot, trial = recorded(timeline, SPEC, with_workspaces(WORKSPACE))
    found = explain_recorded(snapshot, trial, timeline, with_workspaces(0))
    assert without_slopes(found) == without_slopes(predicted(timeline, with_workspaces(WORKSPACE)))
    assert_adds_up(found, trial)


def with_allocation(
    snapshot: dict[str, Any], before: int, size: int, frames: list[dict[str, Any]]
) -> dict[str, Any]:
    """The same record with one allocation more, before the one of a number, that stays."""
    trace: list[dict[str, Any]] = snapshot["device_traces"][0]
    numbers = [n for n, entry in enumerate(trace) if entry["action"] == "alloc"]
    new = {"action": "alloc", "addr": 4096, "size": size, "stream": 0, "frames": frames}
    at = numbers[before]
    return {**snapshot, "device_traces": [[*trace[:at], new, *trace[at:]]]}


def test_what_nobody_predicted_is_counted_under_a_name_of_its_own(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    plan = with_workspaces(WORKSPACE)
    snapshot, trial = recorded(timeline, SPEC, plan)
    before = explain_recorded(snapshot, trial, timeline, plan)
    setup = len(before.allocations) // 2  # well within the building
    frames = [
        {"filename": "/x/site-packages/torch/functional.py", "line": 3, "name": "einsum"},
        {"filename": "/y/nets.py", "line": 9, "name": "forward"},
    ]
    for number, stack, phase, place in (
        (setup, [], "setup", ""),
        (setup, frames, "setup", ": torch/functional.py:3 einsum < nets.py:9 forward"),
        (-20, [], "backward", ""),
    ):
        changed = with_allocation(snapshot, number, 77_777, stack)
        found = explain_recorded(changed, trial, timeline, plan)
        if phase == "setup":
            assert not_attributed(found) == [
                Allocation(
                    module=NOT_ATTRIBUTED,
                    kind=NOT_ATTRIBUTED,
                    operator=NOT_ATTRIBUTED + place,
                    phase=phase,
                    size_bytes=77_777,
                    per_image_bytes=0,
                )
            ]
            assert without_slopes(before) < without_slopes(found)
        # Everything else is what it was: one request more does not make those after it strangers.
        attributed = [each for each in found.allocations if each.kind != NOT_ATTRIBUTED]
        assert sum(each.size_bytes for each in attributed) == sum(
            each.size_bytes for each in before.allocations
        )
        assert_adds_up(found, trial)


def test_a_stray_request_marks_no_phase(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    plan = with_workspaces(WORKSPACE)
    snapshot, trial = recorded(timeline, SPEC, plan)
    before = explain_recorded(snapshot, trial, timeline, plan)
    changed = with_allocation(snapshot, first_step_convolution(snapshot), 77_777, [])
    found = explain_recorded(changed, trial, timeline, plan)
    assert [each.phase for each in not_attributed(found)] == ["backward"]  # for no Python ran
    assert [mark.phase for mark in found.timeline.marks] == [
        mark.phase for mark in before.timeline.marks
    ]


def first_step_convolution(snapshot: dict[str, Any]) -> int:
    """How many allocations there are up to the output of the first convolution, with it."""
    trace = snapshot["device_traces"][0]
    marks = [n for n, entry in enumerate(trace) if entry["action"] == "snapshot"]
    output = 2 * 8 * 8 * 12 * 4  # 2 maps of 8 channels at a quarter of 32 x 48, fp32
    at = next(n for n in range(marks[2], len(trace)) if trace[n]["size"] == output)
    return sum(entry["action"] == "alloc" for entry in trace[: at + 1])


def test_what_lives_on_is_no_kernels_workspace(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    for planned in (0, WORKSPACE):
        plan = with_workspaces(planned)
        snapshot, trial = recorded(timeline, SPEC, plan)
        number = first_step_convolution(snapshot)
        if planned:  # the workspace of this one convolution is not taken
            trace = snapshot["device_traces"][0]
            allocations = [n for n, entry in enumerate(trace) if entry["action"] == "alloc"]
            start = allocations[number]
            assert [entry["size"] for entry in trace[start : start + 3]] == [WORKSPACE] * 3
            del trace[start : start + 3]
        changed = with_allocation(snapshot, number, 3 * WORKSPACE, [])
        found = explain_recorded(changed, trial, timeline, plan)
        assert [each.size_bytes for each in not_attributed(found)] == [3 * WORKSPACE]


def test_the_peak_is_that_of_the_steps_as_it_is_measured(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    plan = with_workspaces(WORKSPACE)
    snapshot, trial = recorded(timeline, SPEC, plan)
    expected = explain_recorded(snapshot, trial, timeline, plan)
    trace = with_allocation(snapshot, 1, 900 * MIB, [])["device_traces"][0]
    at = next(n for n, entry in enumerate(trace) if entry["size"] == 900 * MIB)
    trace.insert(at + 1, {**trace[at], "action": "free_completed"})
    found = explain_recorded({**snapshot, "device_traces": [trace]}, trial, timeline, plan)
    assert found == expected


def test_what_was_there_before_the_recording_is_not_attributed(
    timeline: Timeline, with_workspaces: Callable[[int], NewPlayback]
) -> None:
    plan = with_workspaces(WORKSPACE)
    snapshot, trial = recorded(timeline, SPEC, plan)
    live = {"address": 4096, "size": 1024, "requested_size": 1000, "state": "active_allocated"}
    segment = {**snapshot["segments"][0], "address": 4096, "total_size": 2 * MIB, "blocks": [live]}
    left = {**snapshot, "segments": [*snapshot["segments"], segment]}
    freed = {"action": "free_completed", "addr": 8192, "size": 512, "stream": 0}
    changed = {**left, "device_traces": [[*snapshot["device_traces"][0], freed]]}
    found = explain_recorded(changed, trial, timeline, plan)
    assert [(each.size_bytes, each.phase) for each in not_attributed(found)] == [(1536, "setup")]
    assert_adds_up(found, trial)


def test_a_record_of_another_network_is_not_attributed_and_adds_up(
    timeline: Timeline,
    with_workspaces: Callable[[int], NewPlayback],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(fake_model, "build_model", TwoHeadedNet)
    other = StepTracer(replace(VARIANT, classes=7)).timeline(2)
    workspaces = FixedWorkspaces(tmp_path, 999)
    snapshot, trial = recorded(
        other, SPEC, lambda memory: Playback(other, 2, allocator=memory, workspaces=workspaces)
    )
    found = explain_recorded(snapshot, trial, timeline, with_workspaces(WORKSPACE))
    unknown = sum(each.size_bytes for each in not_attributed(found))
    assert unknown > sum(each.size_bytes for each in found.allocations) / 4
    assert_adds_up(found, trial)


def test_a_step_whose_update_was_skipped_is_like_the_first() -> None:
    phases = ("opening", "building", "step 1", "step 2", "step 3", "evaluation")
    first, later = Section.FIRST_STEP, Section.LATER_STEP
    for skipped, steps in ((0, (first, later, later)), (1, (first, first, later))):
        assert [section_of(phase, skipped) for phase in phases] == [
            None,
            Section.SETUP,
            *steps,
            None,
        ]
