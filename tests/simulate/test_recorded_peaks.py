"""Exact peaks of recordings; the recordings are FABRICATED from the simulation."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.validation.history import ReplayResult
from bsprobe.records.trials import Peak, TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.explain.events import walked
from bsprobe.simulate.explain.reduction import reduced
from bsprobe.simulate.explain.snapshot import SnapshotDriver, SnapshotMemory
from bsprobe.simulate.playback import Memory, Playback
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.builders import measurement
from tests.support.fabricated import FixedWorkspaces
from tests.support.recorded_peaks import LOADED_LATER_BYTES, beginning, replayed, stays_within
from tests.support.recorded_steps import recorded


def peaks_of(program: Callable[[SnapshotMemory], None]) -> tuple[ReplayResult, int, int]:
    """Return a program's replay, and its true peaks of allocated and of requested bytes."""
    driver = SnapshotDriver(available_bytes=None, total_bytes=80 * GIB)
    allocator = CachingAllocator(driver)
    memory = SnapshotMemory(allocator, driver)
    memory.free(memory.malloc(8))  # opening the GPU leaves a segment behind
    driver.trace.clear()
    program(memory)
    snapshot = pickle.loads(memory.pickled())  # noqa: S301 - made a line ago
    history = reduced(beginning(snapshot), snapshot)
    level = max(each.level for each in walked(history.history, history.marks).events)
    return replayed(history.history), allocator.statistics.peak_allocated_bytes, level


def test_a_block_that_is_handed_out_whole_counts_whole() -> None:
    sizes = (11 * MIB + 512, 19 * MIB, 12 * MIB - 512, 3 * MIB, 700)

    def program(memory: SnapshotMemory) -> None:
        for block in [memory.malloc(size) for size in sizes]:
            memory.free(block)

    found, allocated, level = peaks_of(program)

    # Segments of 12, 20 and 12 MiB, whose remainders are too small to be split off.
    assert found.peak_allocated_bytes == allocated == (12 + 20 + 12 + 3) * MIB + 1024
    assert allocated - level == MIB - 512 + MIB + 512


def test_segments_that_are_freed_and_reserved_again_are_told_apart() -> None:
    def program(memory: SnapshotMemory) -> None:
        kept = memory.malloc(30 * MIB)
        for _ in range(2):
            memory.free(memory.malloc(40 * MIB))
            memory.empty_cache()
        memory.free(memory.malloc(100))
        memory.free(kept)
        memory.empty_cache()

    found, allocated, _ = peaks_of(program)

    assert found.peak_allocated_bytes == allocated == 70 * MIB
    assert found.peak_reserved_bytes == 72 * MIB


@pytest.mark.parametrize("precision", Precision)
def test_a_recorded_trial_has_the_peak_of_its_replay(precision: Precision, tmp_path: Path) -> None:
    """Requested bytes are 0.97 to 0.98 of the peak, or 0.966 with the workspaces of cuDNN 9.0."""
    resolution = Resolution(height=128, width=256)
    variant = Variant(model="deeplabv2-resnet50", resolution=resolution, precision=precision)
    timeline = StepTracer(variant).timeline(2)

    def playback(memory: Memory) -> Playback:
        workspaces = FixedWorkspaces(tmp_path, 5 * MIB + 512)
        return Playback(timeline, 2, allocator=memory, workspaces=workspaces)

    snapshot, trial = recorded(timeline, TrialSpec(variant=variant, batch_size=2), playback)
    history = reduced(beginning(snapshot), snapshot, marks=len(trial.phases))
    level = max(each.level for each in walked(history.history, history.marks).events)

    found = replayed(history.history)

    assert found.peak_allocated_bytes == trial.measurement.peak_allocated_bytes
    assert found.peak_reserved_bytes == trial.measurement.peak_reserved_bytes
    assert level < found.peak_allocated_bytes


def test_kernels_that_are_loaded_after_the_limit_was_set_come_on_top() -> None:
    limit, outside = 4 * GIB, 400 * MIB
    peak = Peak(allocated_bytes=GIB, reserved_bytes=limit - outside)
    at_the_limit = replace(
        measurement(1), first_step=peak, steady=peak, outside_allocator_bytes=outside
    )
    later = partial(replace, at_the_limit)
    assert stays_within(limit, at_the_limit)
    assert stays_within(limit, later(outside_allocator_bytes=outside + LOADED_LATER_BYTES))
    assert not stays_within(limit, later(outside_allocator_bytes=outside + LOADED_LATER_BYTES + 1))
    whole = Peak(allocated_bytes=GIB, reserved_bytes=limit)
    assert not stays_within(limit, later(steady=whole, outside_allocator_bytes=0))
