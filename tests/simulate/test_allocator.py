"""The rules of the caching allocator, as in PyTorch's source.

The recorded histories cover most of them. These tests cover the rules that no history in the
repository exercises, and properties of all programs.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial

import pytest

from bsprobe.records.units import GIB, KIB, MIB
from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.allocator.rules import AllocatorRules
from bsprobe.simulate.allocator.statistics import AllocatorStatistics
from tests.support import changed_rules as changed

AllocatorMaker = Callable[..., CachingAllocator]
Scenario = Callable[[AllocatorMaker], list[int]]

NOTHING = AllocatorStatistics(**{field.name: 0 for field in fields(AllocatorStatistics)})


def counted(
    mib: int, reserved_mib: int, *, requested_peak: int = 0, peak: int = 0
) -> AllocatorStatistics:
    """Counters of `mib` MiB in use, whose peaks are higher by the given bytes."""
    return replace(
        NOTHING,
        allocated_bytes=mib * MIB,
        peak_allocated_bytes=mib * MIB + peak,
        requested_bytes=mib * MIB,
        peak_requested_bytes=mib * MIB + requested_peak,
        active_bytes=mib * MIB,
        peak_active_bytes=mib * MIB + peak,
        reserved_bytes=reserved_mib * MIB,
        peak_reserved_bytes=reserved_mib * MIB,
    )


def test_the_counters_follow_blocks_requests_and_segments() -> None:
    allocator = CachingAllocator()
    first = allocator.malloc(1000)
    second = allocator.malloc(3 * MIB)
    allocator.free(first)
    expected = counted(3, 22, requested_peak=1000, peak=1024)
    assert allocator.statistics == replace(expected, segments=2, peak_segments=2)
    allocator.free(second)
    allocator.empty_cache()
    allocator.reset_peaks()
    assert allocator.statistics == NOTHING


def test_peaks_begin_anew_at_what_is_in_use() -> None:
    allocator = CachingAllocator()
    kept = allocator.malloc(2 * MIB)
    allocator.free(allocator.malloc(100 * MIB))
    allocator.empty_cache()
    allocator.reset_peaks()
    assert kept.size == 2 * MIB
    assert allocator.statistics == replace(counted(2, 20), segments=1, peak_segments=1)


# Each scenario is a program with the result that follows from PyTorch's source. Each changed rule
# that it exercises must change the result.


def segments_for_one_request(make: AllocatorMaker) -> list[int]:
    """MiB reserved for a single request, by its size."""
    reserved = []
    for size in (1, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB - 511, 10 * MIB, 11 * MIB, 10**9):
        allocator = make()
        allocator.malloc(size)
        reserved.append(allocator.statistics.reserved_bytes // MIB)
    return reserved


def splits_of_a_large_block(make: AllocatorMaker) -> list[int]:
    """Block sizes of requests that leave 1 MiB, and 1 MiB + 512 B, of a cached block of 20 MiB."""
    sizes = []
    for request in (19 * MIB, 19 * MIB - 512):
        allocator = make()
        allocator.free(allocator.malloc(2 * MIB))
        sizes.append(allocator.malloc(request).size)
    return sizes


def memory_of_two_streams(make: AllocatorMaker) -> list[int]:
    """MiB reserved after requests on stream 7, then on 8, then on 7 again."""
    allocator = make()
    reserved = []
    for stream in (7, 8, 7):
        for size in (4 * MIB, KIB):
            allocator.free(allocator.malloc(size, stream))
        reserved.append(allocator.statistics.reserved_bytes // MIB)
    return reserved


def a_full_card(make: AllocatorMaker) -> list[int]:
    """MiB reserved on a card of 64 MiB before requests; then reserved, retries and OOMs of each."""
    allocator = make(limit_bytes=64 * MIB)
    allocator.malloc(12 * MIB)
    for size, stream in ((30 * MIB, 0), (12 * MIB, 1), (KIB, 2)):
        allocator.free(allocator.malloc(size, stream))
    results = [allocator.statistics.reserved_bytes // MIB]
    for request in (52 * MIB, 2 * MIB):
        with suppress(SimulatedOutOfMemoryError):
            allocator.malloc(request)
        now = allocator.statistics
        results += [now.reserved_bytes // MIB, now.num_alloc_retries, now.num_ooms]
    return results


def requests_to_oversize_blocks(make: AllocatorMaker) -> list[int]:
    """MiB of the block and MiB reserved, per request to free blocks of 30 and 100 MiB."""
    rules = AllocatorRules(max_split_size_bytes=50 * MIB)
    results = []
    for request in (20 * MIB, 40 * MIB, 60 * MIB, 80 * MIB, 81 * MIB):
        allocator = make(rules=rules)
        for block in [allocator.malloc(100 * MIB), allocator.malloc(30 * MIB)]:
            allocator.free(block)
        block = allocator.malloc(request)
        results += [block.size // MIB, allocator.statistics.reserved_bytes // MIB]
    return results


def oversize_blocks_on_a_full_card(make: AllocatorMaker) -> list[int]:
    """MiB reserved and retries, per request to a full card with free blocks of 100, 120, 30 MiB."""
    rules = AllocatorRules(max_split_size_bytes=50 * MIB)
    results = []
    for request in (40 * MIB, 70 * MIB, 200 * MIB, 240 * MIB):
        allocator = make(rules=rules, limit_bytes=250 * MIB)
        for block in [allocator.malloc(size * MIB) for size in (100, 120, 30)]:
            allocator.free(block)
        allocator.malloc(request)
        now = allocator.statistics
        results += [now.reserved_bytes // MIB, now.num_alloc_retries]
    return results


def a_block_that_another_stream_uses(make: AllocatorMaker) -> list[int]:
    """MiB allocated, active and requested: before the free, after it, after synchronization."""
    allocator = make()
    block = allocator.malloc(4 * MIB, stream=1)
    allocator.record_stream(block, 2)
    results = _in_use(allocator)
    allocator.free(block)
    results += _in_use(allocator)
    allocator.synchronize()
    return results + _in_use(allocator)


def _in_use(allocator: CachingAllocator) -> list[int]:
    now = allocator.statistics
    return [now.allocated_bytes // MIB, now.active_bytes // MIB, now.requested_bytes // MIB]


def _rules(**values: int) -> AllocatorMaker:
    return partial(CachingAllocator, rules=AllocatorRules(**values))


SCENARIOS: tuple[tuple[Scenario, list[int], tuple[AllocatorMaker, ...]], ...] = (
    (
        segments_for_one_request,
        [2, 2, 20, 20, 10, 10, 12, 954],
        (
            *(_rules(small_request_bytes=MIB + by) for by in (-512, 512)),
            _rules(small_segment_bytes=4 * MIB),
            _rules(medium_segment_bytes=24 * MIB),
            *(_rules(medium_request_end_bytes=10 * MIB + by) for by in (-512, 512)),
            *(_rules(large_rounding_bytes=each * MIB) for each in (1, 4)),
            _rules(rounding_bytes=1),
        ),
    ),
    (
        splits_of_a_large_block,
        [20 * MIB, 19 * MIB - 512],
        (_rules(large_remainder_bytes=MIB), _rules(large_remainder_bytes=MIB + 513)),
    ),
    (memory_of_two_streams, [22, 44, 44], (changed.OnePoolForAllStreams,)),
    (
        a_full_card,
        [56, 64, 1, 0, 64, 2, 1],
        (changed.NoFlushWhenFull, changed.FlushOfTheLargePoolOnly, changed.FlushOfOneStreamOnly),
    ),
    (
        requests_to_oversize_blocks,
        [20, 130, 40, 170, 60, 190, 80, 210, 100, 130],
        (
            changed.AnyOversizeBlockFits,
            changed.OversizeBlocksServeLargeRequestsOnlyExactly,
            changed.OversizeSlackIsInclusive,
        ),
    ),
    (
        oversize_blocks_on_a_full_card,
        [190, 0, 220, 0, 230, 0, 240, 1],
        (changed.NoReleaseOfOversizeBlocks,),
    ),
    (
        a_block_that_another_stream_uses,
        [4, 4, 4, 0, 4, 4, 0, 0, 0],
        (changed.NoWaitingForOtherStreams,),
    ),
)


@pytest.mark.parametrize(
    ("scenario", "expected"), [(scenario, expected) for scenario, expected, _ in SCENARIOS]
)
def test_a_program_gets_what_the_source_says(scenario: Scenario, expected: list[int]) -> None:
    assert scenario(CachingAllocator) == expected


@pytest.mark.parametrize(
    ("scenario", "change"),
    [(scenario, each) for scenario, _, changes in SCENARIOS for each in changes],
)
def test_a_changed_rule_shows(scenario: Scenario, change: AllocatorMaker) -> None:
    assert scenario(change) != scenario(CachingAllocator)


def test_blocks_that_wait_for_a_stream_count_in_the_peak_of_active_memory() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(4 * MIB)
    allocator.record_stream(block, 1)
    allocator.free(block)
    allocator.malloc(3 * MIB)
    assert allocator.statistics.peak_active_bytes == 7 * MIB
    assert allocator.statistics.peak_allocated_bytes == 4 * MIB


def test_use_on_its_own_stream_does_not_hold_a_block_back() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(4 * MIB, stream=3)
    allocator.record_stream(block, 3)
    allocator.free(block)
    assert allocator.statistics.active_bytes == 0


def test_a_flush_waits_for_the_other_streams() -> None:
    allocator = CachingAllocator(limit_bytes=20 * MIB)
    block = allocator.malloc(20 * MIB)
    allocator.record_stream(block, 1)
    allocator.free(block)
    assert allocator.malloc(12 * MIB).size == 12 * MIB
    assert allocator.statistics.num_alloc_retries == 1


def test_out_of_memory_tells_what_did_not_fit_and_leaves_the_allocator_usable() -> None:
    allocator = CachingAllocator(SimulatedDriver(available_bytes=GIB))
    block = allocator.malloc(600 * MIB)
    with pytest.raises(SimulatedOutOfMemoryError) as caught:
        allocator.malloc(500 * MIB + 1)
    message = str(caught.value)
    assert "out of memory" in message
    assert "502 MiB" in message
    assert "600 MiB reserved" in message
    assert caught.value.segment_bytes == 502 * MIB
    assert caught.value.statistics == allocator.statistics
    allocator.free(block)
    assert allocator.malloc(GIB).size == GIB


def test_a_block_is_freed_once() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(KIB)
    allocator.free(block)
    with pytest.raises(ValueError, match=f"{block.address:#x} is not allocated"):
        allocator.free(block)


@pytest.mark.parametrize("size", [0, -1])
def test_nothing_is_allocated_for_tensors_without_elements(size: int) -> None:
    with pytest.raises(ValueError, match=f"must be positive, not {size}"):
        CachingAllocator().malloc(size)


def test_blocks_that_are_merged_away_do_not_stay_in_memory() -> None:
    allocator = CachingAllocator()
    counts = []
    gc.disable()  # blocks in reference cycles then stay and are counted
    try:
        for _ in range(3):
            for _ in range(50):
                for block in [allocator.malloc(size) for size in (KIB, 3 * MIB, 5 * KIB)]:
                    allocator.free(block)
                allocator.empty_cache()
            counts.append(sum(isinstance(known, Block) for known in gc.get_objects()))
    finally:
        gc.enable()
    assert counts[0] == counts[1] == counts[2]
