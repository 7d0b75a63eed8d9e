"""The contents of the peak are complete and counted once."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bsprobe.records.matrix import matrix
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import AXES, Norm, Variant
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cudnn.convolutions import upper_bound_bytes
from bsprobe.simulate.explain.peak import Moment, PeakContents, contents_of, play_watched
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import (
    Action,
    Affine,
    Kind,
    Phase,
    Place,
    Scratch,
    Section,
    Storage,
    Timeline,
)
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.tiny_networks import VARIANT, TinyNet
from tests.support.traced_networks import tracer_of

CONV = Place(phase=Phase.FORWARD, module="conv", operator="convolution")
HEAD = Place(phase=Phase.FORWARD, module="head", operator="convolution")
STEP = Place(phase=Phase.OPTIMIZER, module="", operator="clone")


def moments_of(timeline: Timeline, batch: int) -> list[Moment]:
    allocator = CachingAllocator(SimulatedDriver())
    workspaces: Any = SimpleNamespace(candidates=lambda each: (upper_bound_bytes(each), 0))
    playback = Playback(timeline, batch, allocator=allocator, workspaces=workspaces)
    return play_watched(timeline, playback, allocator, (Section.FIRST_STEP,))


def peak_of(
    timeline: Timeline, batch: int = 2, *, available_bytes: int | None = None
) -> tuple[PeakContents, CachingAllocator]:
    allocator = CachingAllocator(SimulatedDriver(available_bytes=available_bytes))
    # The bound that replaces cuDNN's answers, so that results do not depend on cuDNN.
    workspaces: Any = SimpleNamespace(candidates=lambda each: (upper_bound_bytes(each), 0))
    playback = Playback(timeline, batch, allocator=allocator, workspaces=workspaces)
    steps = (Section.FIRST_STEP, Section.LATER_STEP)
    moments = play_watched(timeline, playback, allocator, steps)
    reserved = allocator.statistics.peak_reserved_bytes
    return contents_of(timeline, batch, moments, reserved), allocator


def sized(place: Place, kind: Kind, per_image: int, fixed: int = 0) -> Storage:
    return Storage(place=place, kind=kind, size=Affine(fixed=fixed, per_image=per_image))


TIMELINE = Timeline(
    storages=(
        sized(CONV, Kind.PARAMETER, 0, fixed=MIB),
        sized(CONV, Kind.SAVED_ACTIVATION, 4 * MIB),
        sized(HEAD, Kind.TEMPORARY, MIB, fixed=100),
        sized(STEP, Kind.OPTIMIZER_STATE, 0, fixed=MIB),
    ),
    scratches=(Scratch(place=HEAD, sizes=(Affine(fixed=0, per_image=3 * MIB),)),),
    convolutions=(),
    sections={
        Section.SETUP: ((Action.ALLOCATE, 0),),
        Section.FIRST_STEP: (
            (Action.ALLOCATE, 1),
            (Action.ALLOCATE, 2),
            (Action.SCRATCH, 0),
            (Action.FREE, 1),
            (Action.FREE, 2),
            (Action.ALLOCATE, 3),
        ),
        Section.LATER_STEP: (),
    },
    traced_at=(2, 3),
)


def test_a_kernels_own_memory_is_part_of_the_peak() -> None:
    contents, allocator = peak_of(TIMELINE)

    assert contents.place == HEAD
    assert contents.bytes_by(lambda piece: piece.kind) == {
        Kind.SAVED_ACTIVATION: 8 * MIB,
        Kind.WORKSPACE: 6 * MIB,
        Kind.TEMPORARY: 2 * MIB + 100,
        Kind.PARAMETER: MIB,
    }
    assert contents.bytes_by(lambda piece: piece.place.module) == {
        "conv": 9 * MIB,
        "head": 8 * MIB + 100,
    }
    assert [(piece.place.module, piece.per_image_bytes) for piece in contents.pieces] == [
        ("conv", 0),
        ("conv", 4 * MIB),
        ("head", MIB),
        ("head", 0),  # memory within a kernel need not be affine in the batch
    ]
    assert contents.rounding_bytes == 512 - 100
    assert contents.allocated_bytes == 17 * MIB + 512 < contents.reserved_bytes
    assert contents.reserved_bytes == allocator.statistics.peak_reserved_bytes


def test_the_peak_may_be_in_another_step_or_outside_the_network() -> None:
    sections = {
        Section.SETUP: ((Action.ALLOCATE, 0),),
        Section.FIRST_STEP: ((Action.ALLOCATE, 1), (Action.FREE, 1)),
        Section.LATER_STEP: ((Action.ALLOCATE, 3), (Action.ALLOCATE, 1)),
    }
    later, _ = peak_of(replace(TIMELINE, scratches=(), sections=sections))

    assert later.allocated_bytes == 10 * MIB
    assert [piece.kind for piece in later.pieces] == [
        Kind.PARAMETER,
        Kind.OPTIMIZER_STATE,
        Kind.SAVED_ACTIVATION,
    ]


def test_a_card_that_is_too_small_raises_the_allocators_error() -> None:
    with pytest.raises(SimulatedOutOfMemoryError):
        peak_of(TIMELINE, available_bytes=16 * MIB)


def is_complete(contents: PeakContents, allocator: CachingAllocator) -> bool:
    """Return whether pieces and rounding add up to the allocator's peak."""
    pieces = sum(piece.size_bytes for piece in contents.pieces)
    return (
        pieces + contents.rounding_bytes
        == contents.allocated_bytes
        == allocator.statistics.peak_allocated_bytes
        and sum(contents.bytes_by(lambda piece: piece.kind).values()) == pieces
        and 0 <= contents.rounding_bytes < 512 * len(contents.pieces) + MIB * len(contents.pieces)
    )


def tiny_variants(*fields: str) -> tuple[Variant, ...]:
    """Return the variants of some axes that one process can train."""
    choices = {
        axis.field: tuple(
            value for value in axis.kind if value not in (Norm.SYNC_BATCH, Norm.AS_BUILT)
        )
        for axis in AXES
        if axis.field in fields
    }
    return matrix(models=["tiny"], resolutions=[VARIANT.size], choices=choices)


DEFAULTS = tiny_variants("precision", "norm")
OTHERS = tiny_variants("precision", "norm", "memory_format", "optimizer")
SLOW = [pytest.param(each, marks=pytest.mark.nightly) for each in OTHERS if each not in DEFAULTS]


WHOLE = matrix(
    models=["deeplabv2-resnet50"], resolutions=[Resolution(height=64, width=96)], choices={}
)


@pytest.mark.parametrize(
    "variant",
    [*DEFAULTS, *WHOLE, *SLOW],
    ids=lambda each: "-".join((each.model, *(getattr(each, axis.field) for axis in AXES))),
)
def test_the_pieces_are_all_that_is_allocated(variant: Variant) -> None:
    tracer = StepTracer(variant) if variant in WHOLE else tracer_of(TinyNet, variant)
    timeline = tracer.timeline(4)

    for batch in (4, 16):
        assert is_complete(*peak_of(timeline, batch))


def test_the_memory_of_a_kernel_grows_as_it_does_at_other_batches() -> None:
    moments = {batch: moments_of(TIMELINE, batch) for batch in (1, 2, 5)}
    contents = contents_of(TIMELINE, 2, moments[2], 0, moments)
    (inside,) = (piece for piece in contents.pieces if piece.kind is Kind.WORKSPACE)
    assert (inside.size_bytes, inside.per_image_bytes) == (6 * MIB, 3 * MIB)
