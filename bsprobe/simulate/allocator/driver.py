"""The CUDA driver as the caching allocator sees it: who hands out segments, and when it refuses."""

from collections import defaultdict
from heapq import heappop, heappush
from typing import Final, Protocol

_ASSUMED_TOTAL_BYTES = 2**40
"""A card roomier than any on sale, for simulations that ask how much a step would need."""
TOP_ADDRESS: Final = 2**62
"""Invented addresses lie below: 4 EiB, in the 64 bits of `BlockPool`. PyTorch's viewer, which is
written in JavaScript and counts in doubles, can still tell multiples of 512 apart."""


class MemoryDriver(Protocol):
    """The driver calls of c10/cuda/CUDACachingAllocator.cpp; all sizes and addresses in bytes."""

    @property
    def total_bytes(self) -> int:
        """The memory of the card (`cudaDeviceProp::totalGlobalMem`)."""

    def malloc(self, size: int) -> int | None:
        """`cudaMalloc`: the address of a new segment, or None where the memory is used up."""

    def free(self, address: int, size: int) -> None:
        """`cudaFree`: take back a segment."""

    def reserve(self, size: int) -> int:
        """`cuMemAddressReserve`: the start of an empty address range, which costs no memory."""

    def release(self, address: int, size: int) -> None:
        """`cuMemAddressFree`: take back a range without memory, all of it."""

    def map(self, address: int, size: int) -> bool:
        """`cuMemCreate` and `cuMemMap`: back a range with memory; False where it is used up."""

    def unmap(self, address: int, size: int) -> None:
        """`cuMemUnmap` and `cuMemRelease`: take back the memory behind a range."""


class SimulatedDriver:
    """A driver with a fixed amount of memory that invents descending addresses.

    Successive cudaMallocs on Linux return descending addresses, and only their order matters: the
    allocator breaks ties between blocks of one size by the lower address. Segments never get an
    address again: there are enough for 4 EiB of them. Ranges do, for one is larger than the card
    and takes no memory: of those freed the highest of its size, so that a program which begins anew
    finds the ranges that it had. A GPU's driver, whose order is not documented, uses addresses
    again: of the 759 segments that the recorded histories take after a first free, 579
    lie where a freed one lay.

    Args:
        available_bytes: What this process can get from the card, beside its context and other
            processes; None never refuses.
        total_bytes: The memory of the card; bounds the address range of an expandable segment.
        used_bytes: What is already handed out when the simulation begins.
    """

    def __init__(
        self,
        *,
        available_bytes: int | None = None,
        total_bytes: int = _ASSUMED_TOTAL_BYTES,
        used_bytes: int = 0,
    ) -> None:
        self._available_bytes = available_bytes
        self._total_bytes = total_bytes
        self._used_bytes = used_bytes
        self._lowest_address = TOP_ADDRESS
        self._released: defaultdict[int, list[int]] = defaultdict(list)
        """Freed ranges by size: heaps of their addresses, negated: the highest comes first."""

    @property
    def total_bytes(self) -> int:
        """The memory of the card."""
        return self._total_bytes

    @property
    def used_bytes(self) -> int:
        """The memory that is handed out now."""
        return self._used_bytes

    def malloc(self, size: int) -> int | None:
        """Hand out a segment below all earlier ones, or None where the memory is used up."""
        if not self._take(size):
            return None
        return self._fresh(size)

    def free(self, address: int, size: int) -> None:  # noqa: ARG002 - addresses are never reused
        """Take back a segment."""
        self._used_bytes -= size

    def reserve(self, size: int) -> int:
        """Hand out a freed address range of this size, or one below all earlier ones."""
        released = self._released[size]
        return -heappop(released) if released else self._fresh(size)

    def release(self, address: int, size: int) -> None:
        """Take back an address range."""
        heappush(self._released[size], -address)

    def map(self, address: int, size: int) -> bool:  # noqa: ARG002 - only the amount counts here
        """Back a range with memory; False where it is used up."""
        return self._take(size)

    def unmap(self, address: int, size: int) -> None:
        """Take back the memory behind a range."""
        self.free(address, size)

    def _fresh(self, size: int) -> int:
        if size > self._lowest_address:
            raise OverflowError(f"the simulated addresses are used up: {size} bytes do not fit")
        self._lowest_address -= size
        return self._lowest_address

    def _take(self, size: int) -> bool:
        if self._available_bytes is not None and self._used_bytes + size > self._available_bytes:
            return False
        self._used_bytes += size
        return True
