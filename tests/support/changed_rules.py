"""Allocators with one changed rule each, to show that the rule matters."""

from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.blocks import FREE, Block, BlockPool
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.allocator.expandable import ExpandableAllocator


class FirstFit(CachingAllocator):
    def _best_fit(self, pool: BlockPool, rounded: int) -> int | None:
        fits = [(b.address, i) for i, b in enumerate(pool.blocks) if b.size >= rounded]
        return min(fits)[1] if fits else None


class WorstFit(CachingAllocator):
    def _best_fit(self, pool: BlockPool, rounded: int) -> int | None:
        return None if super()._best_fit(pool, rounded) is None else len(pool.blocks) - 1


class TiesToTheHighestAddress(CachingAllocator):
    def _best_fit(self, pool: BlockPool, rounded: int) -> int | None:
        index = super()._best_fit(pool, rounded)
        if index is None:
            return None
        size = pool.blocks[index].size
        return max(i for i, block in enumerate(pool.blocks) if block.size == size)


class NoCoalescing(CachingAllocator):
    def _merge_neighbours(self, block: Block) -> None:
        pass


class CoalescingUpwardsOnly(CachingAllocator):
    def _merge_neighbours(self, block: Block) -> None:
        if block.next is not None and block.next.state == FREE:
            block.pool.remove(block.next)
            block.absorb_next()


class RequestsFromTheHighEnd(CachingAllocator):
    def _split(self, block: Block, rounded: int) -> Block:
        rest = super()._split(block, block.size - rounded)
        block.pool.remove(block)
        block.pool.insert(rest)
        return block


class NoFlushWhenFull(CachingAllocator):
    def _flush_cache(self) -> None:
        pass


class FlushOfTheLargePoolOnly(CachingAllocator):
    def _flush_cache(self) -> None:
        for pool in self._large_pools.values():
            self._release_free_segments(pool)


class OnePoolForAllStreams(CachingAllocator):
    def malloc(self, size: int, stream: int = 0) -> Block:
        del stream
        return super().malloc(size)


class BestFitBySizeAlone(ExpandableAllocator):
    _best_fit = CachingAllocator._best_fit


class SplitsAsInOrdinarySegments(ExpandableAllocator):
    _least_remainder = CachingAllocator._least_remainder


class PagesOf2MibInBothPools(ExpandableAllocator):
    def _page_size(self, pool: BlockPool) -> int:
        del pool
        return 2 * MIB


class NoUnmapping(ExpandableAllocator):
    def _flush_cache(self) -> None:
        pass


class FlushOfOneStreamOnly(CachingAllocator):
    def _flush_cache(self) -> None:
        self._release_free_segments(self._large_pools[0])
        self._release_free_segments(self._small_pools[2])


class AnyOversizeBlockFits(CachingAllocator):
    def _is_oversize_fit(self, block: Block, rounded: int) -> bool:
        del block, rounded
        return True


class OversizeBlocksServeLargeRequestsOnlyExactly(CachingAllocator):
    def _is_oversize_fit(self, block: Block, rounded: int) -> bool:
        return block.size == rounded


class OversizeSlackIsInclusive(CachingAllocator):
    def _is_oversize_fit(self, block: Block, rounded: int) -> bool:
        return rounded >= self._oversize and block.size <= rounded + 20 * MIB


class NoReleaseOfOversizeBlocks(CachingAllocator):
    def _release_oversize_blocks(self, pool: BlockPool, rounded: int) -> bool:
        del pool, rounded
        return False


class NoWaitingForOtherStreams(CachingAllocator):
    def record_stream(self, block: Block, stream: int) -> None:
        pass
