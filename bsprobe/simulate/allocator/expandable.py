"""The caching allocator with `expandable_segments:True`.

A function named in backquotes is one of c10/cuda/CUDACachingAllocator.cpp.
"""

from bisect import insort
from operator import attrgetter

from bsprobe.simulate.allocator.blocks import FREE, UNMAPPED, Block, BlockPool
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.allocator.driver import MemoryDriver
from bsprobe.simulate.allocator.rules import DEFAULT_RULES, NO_LIMIT, AllocatorRules

_by_address = attrgetter("address")


class ExpandableAllocator(CachingAllocator):
    """The allocator with expandable segments: large address ranges, mapped page by page.

    Each stream and pool usually has one segment. A page is `small_segment_bytes` in the small pool
    and `medium_segment_bytes` in the large one.

    Args:
        driver: Source of memory; by default a driver without a memory limit.
        limit_bytes: Limit on reserved memory (`set_per_process_memory_fraction`); None for the
            driver's limit only.
        rules: PyTorch's constants.

    Raises:
        ValueError: The rules set `max_split_size_bytes`; PyTorch does not define its effect on
            expandable segments.
    """

    def __init__(
        self,
        driver: MemoryDriver | None = None,
        *,
        limit_bytes: int | None = None,
        rules: AllocatorRules = DEFAULT_RULES,
    ) -> None:
        if rules.max_split_size_bytes != NO_LIMIT:
            raise ValueError("expandable segments cannot be combined with max_split_size_bytes")
        super().__init__(driver, limit_bytes=limit_bytes, rules=rules)

    def _least_remainder(self, *, is_small: bool) -> int:
        del is_small  # should_split: both pools use the same threshold in expandable segments
        return self._rules.small_remainder_bytes

    def _best_fit(self, pool: BlockPool, rounded: int) -> int | None:
        """Index of a large enough block whose grown size is small (`get_free_block`).

        The grown size includes the unmapped range behind the block. The search starts at the best
        fit and stops at the first block that does not lower the grown size.
        """
        index = super()._best_fit(pool, rounded)
        if index is None:
            return None
        blocks = pool.blocks
        for rival in range(index + 1, len(blocks)):
            if _grown_size(blocks[rival]) >= _grown_size(blocks[index]):
                break
            index = rival
        return index

    def _page_size(self, pool: BlockPool) -> int:
        rules = self._rules
        return rules.small_segment_bytes if pool.is_small else rules.medium_segment_bytes

    def _new_block(self, pool: BlockPool, rounded: int, segment_size: int) -> Block | None:
        """Map memory until a free block is large enough (`try_allocate_expandable_block`)."""
        del segment_size  # used for the limit on reserved memory only
        block = self._find_expandable(pool, rounded)
        if block.state == UNMAPPED:
            mapped = self._map(block, min(block.size, rounded))
            if mapped is None:
                return None
            block = mapped
        while block.size < rounded:
            following = block.next
            if following is None:  # the request exceeds the address range of a segment
                return None
            mapped = self._map(following, min(rounded - block.size, following.size))
            if mapped is None:
                return None
            block = mapped
        pool.remove(block)
        return block

    def _find_expandable(self, pool: BlockPool, rounded: int) -> Block:
        """Find the lowest run of free and unmapped blocks that is large enough.

        Source: `find_expandable_block`.
        """
        for block in pool.unmapped:
            previous = block.previous
            start = previous if previous is not None and previous.state == FREE else block
            if _has_room(start, rounded):
                return start
        return self._add_segment(pool)

    def _add_segment(self, pool: BlockPool) -> Block:
        # ExpandableSegment: an address range of 9/8 of the card's memory, rounded up to pages.
        page = self._page_size(pool)
        total = self._driver.total_bytes
        size = -(-(total + total // 8) // page) * page
        address = self._driver.reserve(size)
        block = Block(address, size, pool, segment_address=address)
        self._add_unmapped(block)
        return block

    def _add_unmapped(self, block: Block) -> None:
        block.state = UNMAPPED
        insort(block.pool.unmapped, block, key=_by_address)

    def _map(self, block: Block, size: int) -> Block | None:
        """Back the low end of an unmapped block with whole pages (`map_block`).

        Returns:
            The free block that contains the pages, or None if the card is full.
        """
        page = self._page_size(block.pool)
        mapped_size = -(-size // page) * page
        if not self._driver.map(block.address, mapped_size):
            return None
        mapped = self._cut_front(block, mapped_size)
        self._cache(mapped)
        self._count_reserved(mapped_size)
        return mapped

    def _cut_front(self, block: Block, size: int) -> Block:
        """Split the low end off an unmapped block; the rest stays unmapped."""
        unmapped = block.pool.unmapped
        if size == block.size:
            unmapped.remove(block)
            return block
        front = Block(block.address, size, block.pool, block.segment_address)
        front.link_before(block)
        block.address += size  # keeps its position in the sorted list
        block.size -= size
        return front

    def _release_free_segments(self, pool: BlockPool) -> None:
        """Unmap the whole pages within free blocks (`release_blocks`)."""
        for block in list(pool.blocks):
            self._unmap(block)

    def _unmap(self, block: Block) -> None:
        """Unmap the whole pages of a free block, keep the remainders (`unmap_block`)."""
        pool, page, base = block.pool, self._page_size(block.pool), block.segment_address
        end = block.address + block.size
        first = base - (base - block.address) // page * page
        last = base + (end - base) // page * page
        if first >= last:
            return
        pool.remove(block)
        if first > block.address:
            front = Block(block.address, first - block.address, pool, base)
            front.link_before(block)
            pool.insert(front)
        if last < end:
            pages = Block(first, last - first, pool, base)
            pages.link_before(block)
            block.address, block.size = last, end - last
            pool.insert(block)
        else:
            pages = block
            pages.address, pages.size = first, last - first
        self._driver.unmap(first, last - first)
        self._reserved -= last - first
        self._keep_unmapped(pages)

    def _keep_unmapped(self, block: Block) -> None:
        """Merge an unmapped block with unmapped neighbours; release a wholly unmapped segment.

        The address range returns to the driver (`release_expandable_segment`, which deletes the
        `ExpandableSegment`).
        """
        unmapped = block.pool.unmapped
        if block.previous is not None and block.previous.state == UNMAPPED:
            unmapped.remove(block.previous)
            block.absorb_previous()
        if block.next is not None and block.next.state == UNMAPPED:
            unmapped.remove(block.next)
            block.absorb_next()
        if block.previous is not None or block.next is not None:
            self._add_unmapped(block)
        else:
            self._driver.release(block.address, block.size)


def _grown_size(block: Block) -> int:
    """Size of a free block and of the unmapped range behind it."""
    following = block.next
    if following is None or following.state != UNMAPPED:
        return block.size
    return block.size + following.size


def _has_room(start: Block, size: int) -> bool:
    """Return whether the free and unmapped blocks from `start` on add up to `size`."""
    block: Block | None = start
    room = 0
    while room < size and block is not None and block.state in {FREE, UNMAPPED}:
        room += block.size
        block = block.next
    return room >= size
