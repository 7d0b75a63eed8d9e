"""Blocks of memory, and the pools that hold the free ones in best-fit order."""

from bisect import bisect_left
from typing import Final

# The states of a block. Plain integers, because every malloc and free compares them.
FREE: Final = 0
ALLOCATED: Final = 1
WAITING: Final = 2
"""Freed, but possibly still in use by another stream."""
UNMAPPED: Final = 3
"""An address range of an expandable segment without memory behind it."""

ADDRESS_BITS: Final = 64
"""Bits of the address in a sort key, below the size. The order is that of `BlockComparatorSize`
(CUDACachingAllocator.cpp); an integer compares faster than a tuple."""


class BlockPool:
    """The free blocks of one stream, for small or for large requests.

    Attributes:
        stream: The stream whose kernels may use the blocks.
        is_small: True if the pool serves small requests.
        least_remainder: Smallest remainder, in bytes, for which a block is split.
        keys: Sort keys (size, then address) of the free blocks, ascending.
        blocks: The free blocks, in the order of `keys`.
        unmapped: The unmapped blocks, by address.
    """

    __slots__ = ("blocks", "is_small", "keys", "least_remainder", "stream", "unmapped")

    def __init__(self, *, stream: int, is_small: bool, least_remainder: int) -> None:
        self.stream = stream
        self.is_small = is_small
        self.least_remainder = least_remainder
        self.keys: list[int] = []
        self.blocks: list[Block] = []
        self.unmapped: list[Block] = []

    def insert(self, block: "Block") -> None:
        """Add a free block."""
        key = block.size << ADDRESS_BITS | block.address
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.blocks.insert(index, block)

    def remove(self, block: "Block") -> None:
        """Remove a free block."""
        index = bisect_left(self.keys, block.size << ADDRESS_BITS | block.address)
        del self.keys[index]
        del self.blocks[index]


class Block:
    """A range of memory within a segment, allocated or free.

    Attributes:
        address: Address of the first byte.
        size: Size in bytes, at least `requested`.
        requested: Bytes of the last request that it served.
        state: FREE, ALLOCATED, WAITING or UNMAPPED.
        pool: The pool that it returns to when freed.
        previous: The block before it in the segment, or None.
        next: The block after it in the segment, or None.
        is_used_elsewhere: True if another stream uses it too, so that a free waits for that stream.
        segment_address: Start of its expandable segment; pages are counted from there.
    """

    __slots__ = (
        "address",
        "is_used_elsewhere",
        "next",
        "pool",
        "previous",
        "requested",
        "segment_address",
        "size",
        "state",
    )

    def __init__(self, address: int, size: int, pool: BlockPool, segment_address: int = 0) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.segment_address = segment_address
        self.requested = 0
        self.state = FREE
        self.previous: Block | None = None
        self.next: Block | None = None
        self.is_used_elsewhere = False

    def link_before(self, other: "Block") -> None:
        """Insert this block directly before another one of the same segment."""
        self.previous = previous = other.previous
        if previous is not None:
            previous.next = self
        self.next = other
        other.previous = self

    def absorb_previous(self) -> None:
        """Merge the block before this one into it."""
        gone = self.previous
        assert gone is not None  # noqa: S101 - the caller checks it
        self.address = gone.address
        self.size += gone.size
        self.previous = previous = gone.previous
        if previous is not None:
            previous.next = self
        gone.previous = gone.next = None  # removed blocks must not keep each other alive

    def absorb_next(self) -> None:
        """Merge the block after this one into it."""
        gone = self.next
        assert gone is not None  # noqa: S101 - as above
        self.size += gone.size
        self.next = following = gone.next
        if following is not None:
            following.previous = self
        gone.previous = gone.next = None
