"""PyTorch's CUDA caching allocator in plain Python.

It follows c10/cuda/CUDACachingAllocator.cpp; a function named in backquotes without a file is
found there. The tests replay histories recorded on GPUs with PyTorch 2.1 to 2.11: every block gets
the address that it had on the GPU. The constants are the same in 2.15. Sizes and addresses are in
bytes.

Not simulated: CUDA-graph pools, `roundup_power2_divisions` and garbage collection, which are off by
default.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from bsprobe.records.units import format_bytes
from bsprobe.simulate.allocator.blocks import (
    ADDRESS_BITS,
    ALLOCATED,
    FREE,
    WAITING,
    Block,
    BlockPool,
)
from bsprobe.simulate.allocator.driver import MemoryDriver, SimulatedDriver
from bsprobe.simulate.allocator.rules import DEFAULT_RULES, NO_LIMIT, AllocatorRules
from bsprobe.simulate.allocator.statistics import AllocatorStatistics


class SimulatedOutOfMemoryError(MemoryError):
    """The simulated card is full, even after its cached segments were released.

    Attributes:
        segment_bytes: Size of the segment that did not fit.
        statistics: The allocator's counters at that time.
    """

    def __init__(self, segment_bytes: int, statistics: AllocatorStatistics) -> None:
        super().__init__(
            f"the simulated GPU is out of memory: a segment of {format_bytes(segment_bytes)} does "
            f"not fit beside {format_bytes(statistics.reserved_bytes)} reserved, of which "
            f"{format_bytes(statistics.allocated_bytes)} are allocated"
        )
        self.segment_bytes = segment_bytes
        self.statistics = statistics


class CachingAllocator:
    """The allocator without expandable segments: each segment is one cudaMalloc.

    Args:
        driver: Source of segments; by default a driver without a memory limit.
        limit_bytes: Limit on reserved memory (`set_per_process_memory_fraction`); None for the
            driver's limit only.
        rules: PyTorch's constants.
    """

    def __init__(
        self,
        driver: MemoryDriver | None = None,
        *,
        limit_bytes: int | None = None,
        rules: AllocatorRules = DEFAULT_RULES,
    ) -> None:
        self._driver: MemoryDriver = SimulatedDriver() if driver is None else driver
        self._limit = NO_LIMIT if limit_bytes is None else limit_bytes
        self._rules = rules
        # Copied from the rules because every malloc reads them.
        self._rounding = rules.rounding_bytes
        self._small_request = rules.small_request_bytes
        self._oversize = rules.max_split_size_bytes
        self._small_pools: dict[int, BlockPool] = {}
        self._large_pools: dict[int, BlockPool] = {}
        self._waiting: list[Block] = []
        self._allocated = self._requested = self._reserved = self._segments = 0
        self._peak_allocated = self._peak_requested = self._peak_reserved = 0
        self._peak_segments = self._peak_active_while_waiting = 0
        self._num_alloc_retries = self._num_ooms = 0

    def malloc(self, size: int, stream: int = 0) -> Block:
        """Allocate `size` bytes for the kernels of `stream`.

        Raises:
            SimulatedOutOfMemoryError: The card is full, even after the cache was flushed.
            ValueError: The size is not positive; PyTorch allocates nothing for empty tensors.
        """
        if size <= 0:
            raise ValueError(f"size must be positive, not {size}: skip tensors without elements")
        rounded = -(-size // self._rounding) * self._rounding
        if rounded <= self._small_request:
            pool = self._small_pools.get(stream) or self._add_pool(stream, is_small=True)
        else:
            pool = self._large_pools.get(stream) or self._add_pool(stream, is_small=False)
        block = self._take_free_block(pool, rounded) or self._take_new_block(pool, rounded)
        # should_split
        if block.size - rounded >= pool.least_remainder and rounded < self._oversize:
            block = self._split(block, rounded)
        block.state = ALLOCATED
        block.requested = size
        self._allocated = allocated = self._allocated + block.size
        if allocated > self._peak_allocated:  # noqa: PLR1730 - calling max() costs too much here
            self._peak_allocated = allocated
        self._requested = requested = self._requested + size
        if requested > self._peak_requested:  # noqa: PLR1730 - as above
            self._peak_requested = requested
        if self._waiting:
            self._peak_active_while_waiting = max(self._peak_active_while_waiting, self._active)
        return block

    def free(self, block: Block) -> None:
        """Free a block that `malloc` returned.

        Raises:
            ValueError: The block is not allocated.
        """
        if block.state != ALLOCATED:
            raise ValueError(f"the block at {block.address:#x} is not allocated")
        self._allocated -= block.size
        if block.is_used_elsewhere:
            block.state = WAITING
            self._waiting.append(block)
        else:
            self._requested -= block.requested
            self._cache(block)

    def record_stream(self, block: Block, stream: int) -> None:
        """Mark the block as used by `stream` too (`Tensor.record_stream`).

        A freed block then waits for that stream until `synchronize` or a flush of the cache. On a
        GPU the wait can end earlier, at a time that the simulation cannot know.
        """
        if stream != block.pool.stream:
            block.is_used_elsewhere = True

    def synchronize(self) -> None:
        """Free the blocks that wait for a stream, as if all streams had finished."""
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            block.is_used_elsewhere = False
            self._requested -= block.requested
            self._cache(block)

    def empty_cache(self) -> None:
        """Return all unused segments to the driver (`torch.cuda.empty_cache`)."""
        self.synchronize()
        # release_cached_blocks: large before small, each by stream, size and address.
        for pools in (self._large_pools, self._small_pools):
            for stream in sorted(pools):
                self._release_free_segments(pools[stream])

    def reset_peaks(self) -> None:
        """Reset the peaks to the current values (`torch.cuda.reset_peak_memory_stats`)."""
        self._peak_allocated = self._allocated
        self._peak_requested = self._requested
        self._peak_reserved = self._reserved
        self._peak_segments = self._segments
        self._peak_active_while_waiting = self._active

    @property
    def statistics(self) -> AllocatorStatistics:
        """The current counters."""
        return AllocatorStatistics(
            allocated_bytes=self._allocated,
            peak_allocated_bytes=self._peak_allocated,
            requested_bytes=self._requested,
            peak_requested_bytes=self._peak_requested,
            active_bytes=self._active,
            # Active equals allocated unless a block waits, so malloc does not track both.
            peak_active_bytes=max(self._peak_allocated, self._peak_active_while_waiting),
            reserved_bytes=self._reserved,
            peak_reserved_bytes=self._peak_reserved,
            segments=self._segments,
            peak_segments=self._peak_segments,
            num_alloc_retries=self._num_alloc_retries,
            num_ooms=self._num_ooms,
        )

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the blocks that are allocated now."""
        return self._allocated

    def layout(self) -> tuple[tuple[int, ...], ...]:
        """Sizes and addresses of the free blocks of each pool.

        Two allocators with equal layouts serve equal requests with equal blocks.
        """
        pools = (*self._large_pools.values(), *self._small_pools.values())
        return tuple((*pool.keys, *(block.address for block in pool.unmapped)) for pool in pools)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that are reserved from the driver now."""
        return self._reserved

    @property
    def free_blocks(self) -> Iterator[Block]:
        """The cached blocks, in no particular order."""
        pools = chain(self._large_pools.values(), self._small_pools.values())
        return chain.from_iterable(pool.blocks for pool in pools)

    def adopt_segment(
        self,
        address: int,
        size: int,
        live: Iterable[tuple[int, int, int]],
        *,
        stream: int,
        is_small: bool,
    ) -> list[Block]:
        """Add an existing segment, for a history that starts in the middle of a run.

        Args:
            address: Start of the segment.
            size: Size of the segment in bytes.
            live: (address, block size, requested size) of the allocated blocks, by address. The
                gaps between them are free blocks.
            stream: The stream that the segment belongs to.
            is_small: True if it belongs to the small pool.

        Returns:
            The allocated blocks, in the given order.
        """
        pools = self._small_pools if is_small else self._large_pools
        pool = pools.get(stream) or self._add_pool(stream, is_small=is_small)
        self._count_segment(size)
        pieces: list[Block] = []
        end = address
        for block_address, block_size, requested in live:
            if block_address > end:
                pieces.append(Block(end, block_address - end, pool))
            block = Block(block_address, block_size, pool)
            block.state = ALLOCATED
            block.requested = requested
            self._allocated += block_size
            self._requested += requested
            pieces.append(block)
            end = block_address + block_size
        if end < address + size:
            pieces.append(Block(end, address + size - end, pool))
        for former, latter in pairwise(pieces):
            former.next, latter.previous = latter, former
        for block in pieces:
            if block.state == FREE:
                pool.insert(block)
        self.reset_peaks()
        return [block for block in pieces if block.state == ALLOCATED]

    @property
    def _active(self) -> int:
        return self._allocated + sum(block.size for block in self._waiting)

    def _add_pool(self, stream: int, *, is_small: bool) -> BlockPool:
        remainder = self._least_remainder(is_small=is_small)
        pool = BlockPool(stream=stream, is_small=is_small, least_remainder=remainder)
        (self._small_pools if is_small else self._large_pools)[stream] = pool
        return pool

    def _least_remainder(self, *, is_small: bool) -> int:
        rules = self._rules
        return rules.small_remainder_bytes if is_small else rules.large_remainder_bytes

    def _take_free_block(self, pool: BlockPool, rounded: int) -> Block | None:
        """Take the best-fitting cached block, or return None (`get_free_block`)."""
        index = self._best_fit(pool, rounded)
        if index is None:
            return None
        block = pool.blocks[index]
        if block.size >= self._oversize and not self._is_oversize_fit(block, rounded):
            return None
        del pool.keys[index]
        del pool.blocks[index]
        return block

    def _best_fit(self, pool: BlockPool, rounded: int) -> int | None:
        """Index of the smallest block that is large enough; ties go to the lowest address."""
        index = bisect_left(pool.keys, rounded << ADDRESS_BITS)
        return index if index < len(pool.keys) else None

    def _is_oversize_fit(self, block: Block, rounded: int) -> bool:
        """Return whether an oversize block may serve a request without being split."""
        slack = self._rules.oversize_slack_bytes
        return rounded >= self._oversize and block.size < rounded + slack

    def _split(self, block: Block, rounded: int) -> Block:
        """Split the request off the low end of a block, cache the rest (`alloc_found_block`)."""
        front = Block(block.address, rounded, block.pool, block.segment_address)
        front.link_before(block)
        block.address += rounded
        block.size -= rounded
        block.pool.insert(block)
        return front

    def _cache(self, block: Block) -> None:
        """Merge a block with its free neighbours and return it to its pool (`free_block`)."""
        block.state = FREE
        self._merge_neighbours(block)
        block.pool.insert(block)

    def _merge_neighbours(self, block: Block) -> None:
        neighbour = block.previous
        if neighbour is not None and neighbour.state == FREE:
            block.pool.remove(neighbour)
            block.absorb_previous()
        neighbour = block.next
        if neighbour is not None and neighbour.state == FREE:
            block.pool.remove(neighbour)
            block.absorb_next()

    def _take_new_block(self, pool: BlockPool, rounded: int) -> Block:
        """Get memory from the driver, flushing the cache if necessary (`malloc`'s slow path)."""
        segment_size = self._segment_size(rounded)
        block = self._try_new_block(pool, rounded, segment_size)
        if block is None and self._release_oversize_blocks(pool, rounded):
            block = self._try_new_block(pool, rounded, segment_size)
        if block is None:
            self._flush_cache()
            self._num_alloc_retries += 1
            block = self._try_new_block(pool, rounded, segment_size)
        if block is None:
            self._num_ooms += 1
            raise SimulatedOutOfMemoryError(segment_size, self.statistics)
        return block

    def _segment_size(self, rounded: int) -> int:
        """Size of the new segment for a request (`get_allocation_size`)."""
        rules = self._rules
        if rounded <= rules.small_request_bytes:
            return rules.small_segment_bytes
        if rounded < rules.medium_request_end_bytes:
            return rules.medium_segment_bytes
        return -(-rounded // rules.large_rounding_bytes) * rules.large_rounding_bytes

    def _try_new_block(self, pool: BlockPool, rounded: int, segment_size: int) -> Block | None:
        """Get a new segment as one block, or None if the card is full (`alloc_block`)."""
        if self._reserved + segment_size > self._limit:
            return None
        return self._new_block(pool, rounded, segment_size)

    def _new_block(self, pool: BlockPool, rounded: int, segment_size: int) -> Block | None:
        del rounded  # used by ExpandableAllocator only
        address = self._driver.malloc(segment_size)
        if address is None:
            return None
        self._count_segment(segment_size)
        return Block(address, segment_size, pool)

    def _release_oversize_blocks(self, pool: BlockPool, rounded: int) -> bool:
        """Release just enough oversize blocks (`release_available_cached_blocks`).

        Returns:
            True if enough was released for the request.
        """
        if self._oversize == NO_LIMIT:
            return False
        wanted = max(rounded, self._oversize)
        index = bisect_left(pool.keys, wanted << ADDRESS_BITS)
        if index < len(pool.keys):
            self._release_segment(pool.blocks[index])
            return True
        released = 0
        while released < wanted and pool.blocks and pool.blocks[-1].size >= self._oversize:
            released += pool.blocks[-1].size
            self._release_segment(pool.blocks[-1])
        return released >= wanted

    def _flush_cache(self) -> None:
        self.empty_cache()

    def _release_free_segments(self, pool: BlockPool) -> None:
        """Return segments that consist of one free block to the driver (`release_blocks`)."""
        for block in [b for b in pool.blocks if b.previous is None and b.next is None]:
            self._release_segment(block)

    def _release_segment(self, block: Block) -> None:
        self._driver.free(block.address, block.size)
        block.pool.remove(block)
        self._segments -= 1
        self._reserved -= block.size

    def _count_segment(self, size: int) -> None:
        self._segments += 1
        self._peak_segments = max(self._peak_segments, self._segments)
        self._count_reserved(size)

    def _count_reserved(self, size: int) -> None:
        self._reserved += size
        self._peak_reserved = max(self._peak_reserved, self._reserved)
