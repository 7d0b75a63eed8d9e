"""Attribution of recorded trials; the records are fabricated from predictions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.explain.attribution import explain_recorded, section_of
from bsprobe.simulate.explain.predicted import Card, explain
from bsprobe.simulate.playback import Memory, Playback
from bsprobe.simulate.timeline import Kind, Section, Timeline
from tests.support.fabricated import FixedWorkspaces
from tests.support.recorded_steps import CAPACITY, OUTSIDE, recorded
from tests.support.tiny_networks import VARIANT, TinyNet, TwoHeadedNet
from tests.support.traced_networks import tracer_of

SPEC = TrialSpec(variant=VARIANT, batch_size=2)
WORKSPACE = 241 * 512
"""Larger than any tensor of the tiny network, so that the peak is in a convolution; a multiple of
the allocator's rounding."""
Snapshot = dict[str, Any]


class Steps:
    """Steps of the tiny network whose convolutions all take the same workspace."""

    def __init__(self, timeline: Timeline, cache: Path) -> None:
        self._timeline = timeline
        self._cache = cache

    def recorded(self, workspace: int = WORKSPACE) -> tuple[Snapshot, RecordedTrial]:
        return recorded(self._timeline, SPEC, partial(self._playback, workspace))

    def told(
        self, snapshot: Snapshot, trial: RecordedTrial, workspace: int = WORKSPACE
    ) -> Explanation:
        """Explain a record, and check that it adds up."""
        playback = partial(self._playback, workspace)
        found = explain_recorded(snapshot, trial, self._timeline, playback)
        for rows in (by_kind(found), by_operator(found), by_module(found, 1), by_module(found, 3)):
            total = sum(row.size_bytes for row in rows if row.depth == 0)
            assert total == trial.measurement.peak_bytes
        assert found.rounding_bytes >= 0
        return found

    def predicted(self, workspace: int = WORKSPACE) -> Explanation:
        card = Card(
            capacity_bytes=CAPACITY,
            outside_allocator_bytes=OUTSIDE,
            total_bytes=CAPACITY,
            new_allocator=CachingAllocator,
            new_playback=lambda _timeline, _batch, memory: self._playback(workspace, memory),
            fits=True,
        )
        return explain(self._timeline, SPEC, card)

    def _playback(self, workspace: int, memory: Memory) -> Playback:
        workspaces = FixedWorkspaces(self._cache, workspace)
        return Playback(self._timeline, 2, allocator=memory, workspaces=workspaces)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tracer_of(TinyNet).timeline(2), tmp_path)


def without_slopes(found: Explanation) -> set[Allocation]:
    return {replace(each, per_image_bytes=0) for each in found.allocations}


def not_attributed(found: Explanation) -> list[Allocation]:
    return [each for each in found.allocations if each.kind == NOT_ATTRIBUTED]


def test_a_record_that_equals_the_prediction_is_explained_like_it(steps: Steps) -> None:
    snapshot, trial = steps.recorded()
    found, expected = steps.told(snapshot, trial), steps.predicted()
    assert without_slopes(found) == without_slopes(expected)
    assert (found.phase, found.module, found.operator) == (
        expected.phase,
        expected.module,
        expected.operator,
    )
    assert found.peak_bytes == expected.peak_bytes == trial.measurement.peak_bytes
    assert (found.source, found.scales, found.fits) == (Source.MEASURED, False, True)
    assert found.capacity_bytes == CAPACITY
    # Kernels allocate and free in events of their own: more events, but the same levels.
    timelines = found.timeline, expected.timeline
    assert [mark.phase for mark in timelines[0].marks] == ["forward", "backward", "optimizer"]
    for series in zip(*((*t.by_kind, *t.by_module) for t in timelines), strict=True):
        assert series[0].name == series[1].name
        assert max(series[0].sizes_bytes) == max(series[1].sizes_bytes)
    assert max(timelines[0].reserved_bytes) == max(timelines[1].reserved_bytes)


@pytest.mark.parametrize(("taken", "planned"), [(3 * WORKSPACE, WORKSPACE), (WORKSPACE, 0)])
def test_a_workspace_of_another_size_than_was_predicted_is_still_that_of_its_convolution(
    taken: int, planned: int, steps: Steps
) -> None:
    found = steps.told(*steps.recorded(taken), planned)
    assert without_slopes(found) == without_slopes(steps.predicted(taken))
    assert planned == 0 or any(each.kind == Kind.WORKSPACE for each in found.allocations)


def with_allocation(
    snapshot: Snapshot, before: int, size: int, frames: Sequence[dict[str, Any]] = ()
) -> Snapshot:
    """Return the record with one more lasting allocation before the one with a number."""
    trace: list[dict[str, Any]] = snapshot["device_traces"][0]
    at = places_of(trace, "alloc")[before]
    new = {"action": "alloc", "addr": 4096, "size": size, "stream": 0, "frames": frames}
    return {**snapshot, "device_traces": [[*trace[:at], new, *trace[at:]]]}


def places_of(trace: list[dict[str, Any]], action: str) -> list[int]:
    return [n for n, entry in enumerate(trace) if entry["action"] == action]


def test_an_allocation_that_is_not_predicted_is_counted_as_not_attributed(steps: Steps) -> None:
    snapshot, trial = steps.recorded()
    before = steps.told(snapshot, trial)
    setup = len(before.allocations) // 2  # within the building phase
    frames = [
        {"filename": "/x/site-packages/torch/functional.py", "line": 3, "name": "einsum"},
        {"filename": "/y/nets.py", "line": 9, "name": "forward"},
    ]
    for number, stack, phase, place in (
        (setup, [], "setup", ""),
        (setup, frames, "setup", ": torch/functional.py:3 einsum < nets.py:9 forward"),
        (-20, [], "backward", ""),
    ):
        found = steps.told(with_allocation(snapshot, number, 77_777, stack), trial)
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
        # All other allocations are attributed as before.
        attributed = [each for each in found.allocations if each.kind != NOT_ATTRIBUTED]
        assert sum(each.size_bytes for each in attributed) == sum(
            each.size_bytes for each in before.allocations
        )


def test_a_stray_request_marks_no_phase(steps: Steps) -> None:
    snapshot, trial = steps.recorded()
    before = steps.told(snapshot, trial)
    changed = with_allocation(snapshot, first_step_convolution(snapshot), 77_777)
    found = steps.told(changed, trial)
    assert [each.phase for each in not_attributed(found)] == ["backward"]  # without Python frames
    assert [m.phase for m in found.timeline.marks] == [m.phase for m in before.timeline.marks]


def first_step_convolution(snapshot: Snapshot) -> int:
    """Return the number of allocations up to and with the output of the first convolution."""
    trace = snapshot["device_traces"][0]
    start = places_of(trace, "snapshot")[2]
    output = 2 * 8 * 8 * 12 * 4  # 2 maps of 8 channels at a quarter of 32 x 48, fp32
    at = next(n for n in range(start, len(trace)) if trace[n]["size"] == output)
    return len(places_of(trace[: at + 1], "alloc"))


def test_an_allocation_that_lives_on_is_not_taken_for_a_workspace(steps: Steps) -> None:
    for planned in (0, WORKSPACE):
        snapshot, trial = steps.recorded(planned)
        number = first_step_convolution(snapshot)
        if planned:  # remove the workspace of this convolution
            trace = snapshot["device_traces"][0]
            start = places_of(trace, "alloc")[number]
            assert [entry["size"] for entry in trace[start : start + 3]] == [WORKSPACE] * 3
            del trace[start : start + 3]
        found = steps.told(with_allocation(snapshot, number, 3 * WORKSPACE), trial, planned)
        assert [each.size_bytes for each in not_attributed(found)] == [3 * WORKSPACE]


def test_the_peak_is_that_of_the_steps_as_it_is_measured(steps: Steps) -> None:
    snapshot, trial = steps.recorded()
    trace = with_allocation(snapshot, 1, 900 * MIB)["device_traces"][0]
    at = next(n for n, entry in enumerate(trace) if entry["size"] == 900 * MIB)
    trace.insert(at + 1, {**trace[at], "action": "free_completed"})
    changed = {**snapshot, "device_traces": [trace]}
    assert steps.told(changed, trial) == steps.told(snapshot, trial)


def test_allocations_from_before_the_recording_are_not_attributed(steps: Steps) -> None:
    snapshot, trial = steps.recorded()
    live = {"address": 4096, "size": 1024, "requested_size": 1000, "state": "active_allocated"}
    segment = {**snapshot["segments"][0], "address": 4096, "total_size": 2 * MIB, "blocks": [live]}
    freed = {"action": "free_completed", "addr": 8192, "size": 512, "stream": 0}
    changed = {
        **snapshot,
        "segments": [*snapshot["segments"], segment],
        "device_traces": [[*snapshot["device_traces"][0], freed]],
    }
    found = steps.told(changed, trial)
    assert [(each.size_bytes, each.phase) for each in not_attributed(found)] == [(1536, "setup")]


def test_a_record_of_another_network_is_not_attributed_and_adds_up(
    steps: Steps, tmp_path: Path
) -> None:
    other = Steps(tracer_of(TwoHeadedNet, replace(VARIANT, classes=7)).timeline(2), tmp_path)
    found = steps.told(*other.recorded(999))
    unknown = sum(each.size_bytes for each in not_attributed(found))
    assert unknown > sum(each.size_bytes for each in found.allocations) / 4


def test_a_step_whose_update_was_skipped_is_like_the_first() -> None:
    phases = ("opening", "building", "step 1", "step 2", "step 3", "evaluation")
    first, later = Section.FIRST_STEP, Section.LATER_STEP
    for skipped, steps in ((0, (first, later, later)), (1, (first, first, later))):
        sections = [None, Section.SETUP, *steps, None]
        assert [section_of(phase, skipped) for phase in phases] == sections
