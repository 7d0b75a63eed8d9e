"""Expandable segments: behaviour that the recorded histories do not cover."""

import itertools

import pytest

from bsprobe.records.units import GIB, KIB, MIB
from bsprobe.simulate.allocator.blocks import Block, BlockPool
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.allocator.expandable import ExpandableAllocator
from bsprobe.simulate.allocator.rules import AllocatorRules


class NewPagesAtTheHighestAddress(ExpandableAllocator):
    def _find_expandable(self, pool: BlockPool, rounded: int) -> Block:
        pool.unmapped.reverse()
        found = super()._find_expandable(pool, rounded)
        pool.unmapped.reverse()
        return found


class CountingDriver(SimulatedDriver):
    """A driver that records its reserved and released address ranges."""

    def __init__(self, *, total_bytes: int = 2**40) -> None:
        super().__init__(total_bytes=total_bytes)
        self.reserved: list[tuple[int, int]] = []
        self.released: list[tuple[int, int]] = []

    def reserve(self, size: int) -> int:
        address = super().reserve(size)
        self.reserved.append((address, size))
        return address

    def release(self, address: int, size: int) -> None:
        super().release(address, size)
        self.released.append((address, size))


def test_a_segment_grows_and_shrinks_by_whole_pages_at_its_end() -> None:
    allocator = ExpandableAllocator()
    first = allocator.malloc(5 * MIB)
    assert allocator.statistics.reserved_bytes == 20 * MIB
    second = allocator.malloc(30 * MIB)
    assert allocator.statistics.reserved_bytes == 40 * MIB
    assert second.address == first.address + 5 * MIB
    allocator.free(second)
    allocator.empty_cache()
    assert [free.size for free in allocator.free_blocks] == [15 * MIB]


def test_pages_of_the_small_pool_are_small() -> None:
    allocator = ExpandableAllocator()
    blocks = [allocator.malloc(MIB) for _ in range(3)]
    assert allocator.statistics.reserved_bytes == 4 * MIB
    assert [block.address - blocks[0].address for block in blocks] == [0, MIB, 2 * MIB]


def test_the_large_pool_splits_off_512_bytes() -> None:
    allocator = ExpandableAllocator()
    block = allocator.malloc(20 * MIB - 512)
    assert block.size == 20 * MIB - 512
    assert [free.size for free in allocator.free_blocks] == [512]


def test_a_block_that_cannot_grow_is_preferred_to_a_smaller_one_that_can() -> None:
    allocator = ExpandableAllocator()
    inner = allocator.malloc(20 * MIB)
    inner_address = inner.address
    allocator.malloc(10 * MIB)  # the other 10 MiB of its page are free and can grow
    allocator.free(inner)
    assert allocator.malloc(5 * MIB).address == inner_address


def _fill_a_gap(allocator: ExpandableAllocator) -> tuple[int, int, int]:
    """Reserved MiB after unmapping pages, then the offset of a new block and reserved MiB."""
    gap = allocator.malloc(30 * MIB)
    start = gap.address
    allocator.malloc(30 * MIB)
    allocator.free(gap)
    allocator.empty_cache()
    emptied = allocator.statistics.reserved_bytes // MIB
    offset = (allocator.malloc(25 * MIB).address - start) // MIB
    return emptied, offset, allocator.statistics.reserved_bytes // MIB


def test_only_whole_pages_are_unmapped_and_the_lowest_gap_is_filled_first() -> None:
    assert _fill_a_gap(ExpandableAllocator()) == (40, 0, 60)
    assert _fill_a_gap(NewPagesAtTheHighestAddress()) != (40, 0, 60)


def test_each_stream_has_its_own_segment() -> None:
    allocator = ExpandableAllocator()
    allocator.free(allocator.malloc(4 * MIB, stream=1))
    allocator.malloc(4 * MIB, stream=2)
    assert allocator.statistics.reserved_bytes == 40 * MIB


def test_on_a_full_card_free_pages_move_to_where_they_are_needed() -> None:
    allocator = ExpandableAllocator(SimulatedDriver(available_bytes=60 * MIB))
    moved = allocator.malloc(40 * MIB)
    allocator.malloc(20 * MIB)
    allocator.free(moved)
    allocator.malloc(40 * MIB, stream=1)
    assert allocator.statistics.reserved_bytes == 60 * MIB
    assert allocator.statistics.num_alloc_retries == 1
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.malloc(KIB)
    assert allocator.statistics.num_ooms == 1


def test_the_limit_is_compared_with_what_an_ordinary_segment_would_take() -> None:
    allocator = ExpandableAllocator(limit_bytes=60 * MIB)
    allocator.malloc(30 * MIB)
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.malloc(25 * MIB)  # one more page is enough, but alloc_block checks 26 MiB
    allocator = ExpandableAllocator(limit_bytes=30 * MIB)
    allocator.malloc(30 * MIB)
    assert allocator.statistics.reserved_bytes == 40 * MIB


def test_a_segment_without_pages_is_released_and_a_new_one_is_reserved() -> None:
    driver = CountingDriver()
    allocator = ExpandableAllocator(driver)
    for number in range(1, 4):
        blocks = [allocator.malloc(20 * MIB) for _ in range(3)]
        for block in blocks:
            assert len(driver.released) == number - 1
            allocator.free(block)
            allocator.empty_cache()
        assert allocator.statistics.reserved_bytes == 0
        assert list(allocator.free_blocks) == []
        assert driver.reserved == driver.released
        assert len(driver.reserved) == number


def test_a_request_beyond_the_address_range_is_out_of_memory() -> None:
    allocator = ExpandableAllocator(SimulatedDriver(total_bytes=GIB))
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.malloc(2 * GIB)


def test_oversize_blocks_cannot_be_combined_with_expandable_segments() -> None:
    with pytest.raises(ValueError, match="max_split_size_bytes"):
        ExpandableAllocator(rules=AllocatorRules(max_split_size_bytes=50 * MIB))


def _program(
    allocator: ExpandableAllocator, stream: int = 0
) -> tuple[list[tuple[int, int]], int, int]:
    """Allocate and free small and large blocks whose places depend on best fit.

    Returns:
        Offsets and sizes of the blocks, then reserved and allocated bytes while they live.
    """
    blocks = [allocator.malloc(size, stream) for size in (KIB, 5 * MIB, 30 * MIB, 3 * KIB, 7 * MIB)]
    for block in blocks[::2]:
        allocator.free(block)
    blocks[::2] = [allocator.malloc(size, stream) for size in (6 * MIB, KIB, 25 * MIB)]
    places = [(block.address - block.segment_address, block.size) for block in blocks]
    seen = (places, allocator.reserved_bytes, allocator.allocated_bytes)
    for block in blocks:
        allocator.free(block)
    return seen


def test_thousands_of_reservations_behave_as_the_first_one() -> None:
    driver = CountingDriver()
    allocator = ExpandableAllocator(driver)
    seen = []
    for _ in range(3000):
        seen.append((_program(allocator), allocator.layout()))
        allocator.empty_cache()

    assert seen == [seen[0]] * 3000
    assert allocator.statistics.peak_reserved_bytes == seen[0][0][1]
    assert len(driver.reserved) == 6000


@pytest.mark.parametrize("total_bytes", [2**40, 2**44])
def test_thousands_of_ranges_that_live_together_behave_as_the_first_one(total_bytes: int) -> None:
    driver = CountingDriver(total_bytes=total_bytes)
    allocator = ExpandableAllocator(driver)
    seen = [_program(allocator, stream) for stream in range(2000)]

    assert seen == [
        (places, (number + 1) * reserved, allocated)
        for number, (places, reserved, allocated) in enumerate([seen[0]] * 2000)
    ]
    ranges = sorted(driver.reserved)
    assert len(ranges) == 4000
    assert ranges[0][0] >= 0
    assert ranges[-1][0] + ranges[-1][1] <= 2**62
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(ranges))


def test_a_request_beyond_the_simulated_addresses_is_an_overflow() -> None:
    with pytest.raises(OverflowError, match=str(2**62 + 1)):
        SimulatedDriver().reserve(2**62 + 1)
