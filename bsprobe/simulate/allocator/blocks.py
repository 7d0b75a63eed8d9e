"""Blocks of memory, and the pools that keep the free ones in best-fit order."""

from bisect import bisect_left
from typing import Final

# The states of a block: plain integers, for they are compared in every malloc and free.
FREE: Final = 0
ALLOCATED: Final = 1
WAITING: Final = 2
"""Freed, but another stream may still use it."""
UNMAPPED: Final = 3
"""An address range of an expandable segment that no memory backs now."""

ADDRESS_BITS: Final = 64
"""Free blocks are ordered by one integer, size above address: the order of `BlockComparatorSize`
(CUDACachingAllocator.cpp), and faster to compare than a tuple."""


class BlockPool:
    """The free blocks of one stream, for small or for large requests.

    Attributes:
        stream: The stream whose kernels may use them.
        is_small: Which of the two kinds of requests it serves.
        least_remainder: The bytes that must be left over for a block to be split.
        keys: The sizes and addresses of the free blocks, ascending.
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
        """Offer a free block for reuse."""
        key = block.size << ADDRESS_BITS | block.address
        index = bisect_left(self.keys, key)
        self.keys.insert(index, key)
        self.blocks.insert(index, block)

    def remove(self, block: "Block") -> None:
        """Withdraw a free block."""
        index = bisect_left(self.keys, block.size << ADDRESS_BITS | block.address)
        del self.keys[index]
        del self.blocks[index]


class Block:
    """A range of memory within a segment: the handle of an allocation, or a piece that is free.

    Attributes:
        address: Its first byte.
        size: Its bytes, at least the request.
        requested: The bytes asked for when it was last handed out.
        state: FREE, ALLOCATED, WAITING or UNMAPPED.
        pool: The pool it returns to.
        previous: The block before it in its segment, or None.
        next: The block behind it in its segment, or None.
        is_used_elsewhere: Whether another stream uses it, so that a free must wait for that one.
        segment_address: Where its expandable segment starts; pages are counted from there.
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
        """Put this block directly before another of the same segment."""
        self.previous = previous = other.previous
        if previous is not None:
            previous.next = self
        self.next = other
        other.previous = self

    def absorb_previous(self) -> None:
        """Grow over the block before it, which then is no more."""
        gone = self.previous
        assert gone is not None  # noqa: S101 - an invariant: the caller has looked at it
        self.address = gone.address
        self.size += gone.size
        self.previous = previous = gone.previous
        if previous is not None:
            previous.next = self
        gone.previous = gone.next = None  # or dead blocks would keep each other alive

    def absorb_next(self) -> None:
        """Grow over the block behind it, which then is no more."""
        gone = self.next
        assert gone is not None  # noqa: S101 - as above
        self.size += gone.size
        self.next = following = gone.next
        if following is not None:
            following.previous = self
        gone.previous = gone.next = None
