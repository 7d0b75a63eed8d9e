"""Invariants of the allocators, checked on generated programs."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.records.units import KIB, MIB
from bsprobe.simulate.allocator.blocks import FREE, Block
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.allocator.expandable import ExpandableAllocator
from bsprobe.simulate.allocator.rules import AllocatorRules

AVAILABLE = 300 * MIB
"""Memory of the card, small enough that many programs fill it."""


def without_large_splits(driver: SimulatedDriver) -> CachingAllocator:
    return CachingAllocator(driver, rules=AllocatorRules(max_split_size_bytes=24 * MIB))


AllocatorMaker = Callable[[SimulatedDriver], CachingAllocator]
each_allocator = pytest.mark.parametrize(
    "make", [CachingAllocator, without_large_splits, ExpandableAllocator]
)

sizes = st.one_of(
    st.integers(1, 4 * KIB),
    st.integers(1, 3 * MIB),
    st.integers(1, 60 * MIB),
    st.sampled_from([512, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB, 19 * MIB, 20 * MIB]),
)
"""Sizes of both pools, and sizes at the limits of the rules."""
allocations = st.tuples(st.just("malloc"), sizes, st.integers(0, 2))
frees = st.tuples(st.just("free"), st.integers(0, 1000), st.just(0))
flushes = st.just(("empty_cache", 0, 0))
programs = st.lists(st.one_of(allocations, allocations, frees, frees, flushes), max_size=60)

Program = Sequence[tuple[str, int, int]]


class Run:
    """A program on an allocator, with the blocks that it holds."""

    def __init__(self, make: AllocatorMaker, program: Program = ()) -> None:
        self.driver = SimulatedDriver(available_bytes=AVAILABLE)
        self.allocator = make(self.driver)
        self.live: list[Block] = []
        self.failures = 0
        for action in program:
            self.act(*action)

    def act(self, action: str, value: int, stream: int) -> None:
        if action == "empty_cache":
            self.allocator.empty_cache()
        elif action == "malloc":
            try:
                self.live.append(self.allocator.malloc(value, stream))
            except SimulatedOutOfMemoryError:
                self.failures += 1
        elif self.live:
            self.allocator.free(self.live.pop(value % len(self.live)))


@each_allocator
@given(program=programs)
def test_every_byte_is_in_one_block_merged_with_free_ones_and_every_counter_is_right(
    make: AllocatorMaker, program: Program
) -> None:
    run = Run(make)
    for action in program:
        run.act(*action)
        free = list(run.allocator.free_blocks)
        blocks = sorted(run.live + free, key=lambda block: block.address)
        now = run.allocator.statistics
        assert all(low.address + low.size <= high.address for low, high in pairwise(blocks))
        assert sum(block.size for block in blocks) == now.reserved_bytes == run.driver.used_bytes
        assert sum(block.size for block in run.live) == now.allocated_bytes == now.active_bytes
        assert sum(block.requested for block in run.live) == now.requested_bytes
        assert all(block.requested <= block.size for block in run.live)
        beside_free = [each for block in free for each in (block.previous, block.next)]
        assert all(each is None or each.state != FREE for each in beside_free)
        assert now.num_ooms == run.failures
        assert now.peak_reserved_bytes <= AVAILABLE


@each_allocator
@given(program=programs)
def test_all_memory_comes_back_once_everything_is_freed(
    make: AllocatorMaker, program: Program
) -> None:
    run = Run(make, program)
    for block in run.live:
        run.allocator.free(block)
    run.allocator.empty_cache()
    now = run.allocator.statistics
    assert (now.allocated_bytes, now.requested_bytes, now.reserved_bytes) == (0, 0, 0)
    assert (now.segments, run.driver.used_bytes) == (0, 0)
    assert list(run.allocator.free_blocks) == []


@given(program=programs, limit=st.integers(1, AVAILABLE))
def test_no_more_is_reserved_than_the_limit_allows(program: Program, limit: int) -> None:
    run = Run(lambda driver: CachingAllocator(driver, limit_bytes=limit), program)
    assert run.allocator.statistics.peak_reserved_bytes <= limit


@given(program=programs)
def test_the_same_program_gets_the_same_addresses_again(program: Program) -> None:
    runs = [Run(CachingAllocator, program) for _ in range(2)]
    first, second = ([block.address for block in run.live] for run in runs)
    assert first == second
