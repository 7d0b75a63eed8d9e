"""Tensors that a network or an optimizer keeps stay allocated in later steps."""

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.assumptions import Assumption
from bsprobe.records.gpus import find_gpu
from bsprobe.records.trials import Measurement, TrialSpec, Validation
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Kind, Recording, Section, at_one_batch
from tests.support.lasting_networks import (
    Alternates,
    AssignsStatistics,
    Hoards,
    KeepsOutputs,
)
from tests.support.traced_networks import Build, PlainNet, bytes_left, tracer_of

SUPPORT = "tests.support.lasting_networks"
SIZE = Resolution(height=32, width=48)
OUTPUT_BYTES = 2 * 4 * 8 * 12 * 4
"""Bytes of PlainNet's logits at batch 2: four classes on a quarter of the side."""


def outputs_kept(count: int) -> Build:
    return partial(KeepsOutputs, outputs=count)


def held_after(recording: Recording, *sections: Section) -> list[int]:
    """Return the allocated bytes on an unlimited card after the set-up and each section."""
    allocator = CachingAllocator()
    without: Any = SimpleNamespace(candidates=lambda _: (0,))
    timeline = at_one_batch(recording)
    playback = Playback(timeline, recording.batch, allocator=allocator, workspaces=without)
    found = []
    for section in (Section.SETUP, *sections):
        playback.play(section)
        found.append(allocator.allocated_bytes)
    return found


@pytest.mark.parametrize(
    ("build", "settling"),
    [
        (PlainNet, 0),
        (AssignsStatistics, 0),
        (outputs_kept(1), 0),
        (outputs_kept(2), 1),
        (outputs_kept(5), 4),
    ],
)
def test_steps_are_traced_until_one_repeats(build: Build, settling: int) -> None:
    recording = tracer_of(build).record(2)

    assert len(recording.settling) == settling
    held = held_after(recording, *at_one_batch(recording).steps(settling + 12))
    assert len(set(held[-11:])) == 1  # the last one can be played any number of times


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_many_outputs_are_kept_as_the_network_keeps(count: int) -> None:
    without, kept = (
        bytes_left(tracer_of(each).record(2)) for each in (PlainNet, outputs_kept(count))
    )

    assert kept[Kind.BUFFER] - without[Kind.BUFFER] == count * OUTPUT_BYTES
    assert kept - without == {Kind.BUFFER: count * OUTPUT_BYTES}


def test_a_storage_is_handed_on_to_one_of_equal_kind_and_size() -> None:
    recording = tracer_of(outputs_kept(5)).record(2)

    assert len(recording.handovers) == 5
    for newer, older in recording.handovers:
        assert recording.storages[newer] == recording.storages[older]


def test_statistics_that_are_assigned_anew_take_no_more_than_those_that_are_written_to() -> None:
    left = bytes_left(tracer_of(AssignsStatistics).record(2))
    assert left[Kind.BUFFER] == 8 * 4


def test_a_timeline_of_two_batches_hands_on_at_others() -> None:
    tracer = tracer_of(outputs_kept(3))
    timeline, recording = tracer.timeline(9), tracer.record(9)

    assert (timeline.traced_at, timeline.handovers) == ((1, 2), recording.handovers)
    assert [each.size.at(9) for each in timeline.storages] == [s for _, _, s in recording.storages]


def test_a_validation_replaces_what_the_last_step_kept() -> None:
    recording = tracer_of(
        outputs_kept(1), validation=Validation(resolution=SIZE, batch_size=2)
    ).record(2)

    steps = at_one_batch(recording).steps(6)
    *_, before, after = held_after(recording, *steps, Section.VALIDATION)
    assert after == before


def test_memory_that_grows_in_every_step_is_reported() -> None:
    tracer = tracer_of(Hoards)
    recording = tracer.record(2)

    assert tracer.facts.assumptions == (Assumption.STILL_GROWING,)
    *_, before, after = held_after(recording, *at_one_batch(recording).steps(40))
    assert after - before == OUTPUT_BYTES


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("hoards", 4 * 4 * 8 * 12 * 2),  # logits of four images, in half precision
        ("hoards_graphs", 512 + 512),  # a scalar, and the small tensor that its graph saves
    ],
)
def test_a_prediction_knows_the_growth_exactly(network: str, expected: int) -> None:
    found = predicted(f"{SUPPORT}:{network}")
    ends = found.allocated_after_steps
    assert len(ends) == found.steps == found.updates_applied == 24
    growth = {later - one for one, later in itertools.pairwise(ends[1:])}
    assert growth == {expected}
    assert found.model.assumptions == (Assumption.STILL_GROWING,)


def test_steps_that_differ_without_growth_are_not_called_growing() -> None:
    tracer = tracer_of(Alternates)
    tracer.record(2)
    assert tracer.facts.assumptions == ()


def predicted(network: str, optimizer: str | None = None) -> Measurement:
    own = OwnParts(optimizer=None if optimizer is None else f"{SUPPORT}:{optimizer}")
    variant = Variant(
        model=network, classes=4, resolution=SIZE, precision=Precision.AMP_FP16, own=own
    )
    device = SimulatedDevice(find_gpu("RTX 3090"), None)
    spec = TrialSpec(variant=variant, batch_size=4)
    explanation = device.explain(spec, lambda _: None, None)
    found = device.run_trial(spec, lambda _: None)
    assert explanation.peak_allocated_bytes == found.peak_allocated_bytes
    assert sum(each.size_bytes for each in explanation.allocations) <= found.peak_allocated_bytes
    return found


def test_state_that_is_assigned_anew_is_predicted_and_explained() -> None:
    found = predicted(f"{SUPPORT}:five_outputs", "assigns_state")
    assert found.model.assumptions == ()
    assert found.steps == 6  # until one repeats; a trial has four
    assert len(set(found.allocated_after_steps[4:])) == 1
    assert len(found.allocated_after_steps) == found.steps
