"""The CUDA driver's memory calls, and a simulation of them."""

from collections import defaultdict
from heapq import heappop, heappush
from typing import Final, Protocol

_ASSUMED_TOTAL_BYTES = 2**40
"""Memory of the default card, larger than any on sale, for simulations without a memory limit."""
TOP_ADDRESS: Final = 2**62
"""Upper end of the simulated addresses. They fit into the 64 bits of `BlockPool`'s keys, and
PyTorch's viewer, which stores them as JavaScript doubles, still separates multiples of 512."""


class MemoryDriver(Protocol):
    """The driver calls of c10/cuda/CUDACachingAllocator.cpp. Sizes and addresses are in bytes."""

    @property
    def total_bytes(self) -> int:
        """The memory of the card (`cudaDeviceProp::totalGlobalMem`)."""

    def malloc(self, size: int) -> int | None:
        """`cudaMalloc`: return the address of a new segment, or None if the card is full."""

    def free(self, address: int, size: int) -> None:
        """`cudaFree`: release a segment."""

    def reserve(self, size: int) -> int:
        """`cuMemAddressReserve`: return the start of an address range without memory."""

    def release(self, address: int, size: int) -> None:
        """`cuMemAddressFree`: release an unmapped address range."""

    def map(self, address: int, size: int) -> bool:
        """`cuMemCreate` and `cuMemMap`: back a range with memory; False if the card is full."""

    def unmap(self, address: int, size: int) -> None:
        """`cuMemUnmap` and `cuMemRelease`: release the memory behind a range."""


class SimulatedDriver:
    """A driver with a fixed amount of memory and simulated, descending addresses.

    Successive cudaMallocs on Linux return descending addresses. Only their order matters: the
    allocator prefers the lower address among blocks of equal size. Addresses of segments are never
    reused; there are enough for 4 EiB. Address ranges of expandable segments are larger than the
    card, so the highest freed range of the same size is reused. A repeated program therefore gets
    the same ranges. A GPU's driver does reuse addresses, in an undocumented order: of the 759
    segments that the recorded histories take after a first free, 579 lie at the address of a freed
    one.

    Args:
        available_bytes: Bytes that this process can allocate, without its context and other
            processes; None for no limit.
        total_bytes: Memory of the card; sets the address range of an expandable segment.
        used_bytes: Bytes that are already allocated when the simulation begins.
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
        """Freed ranges by size, as heaps of negated addresses: the highest comes first."""

    @property
    def total_bytes(self) -> int:
        """The memory of the card."""
        return self._total_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes that are allocated now."""
        return self._used_bytes

    def malloc(self, size: int) -> int | None:
        """Return the address of a segment below all earlier ones, or None if the card is full."""
        if not self._take(size):
            return None
        return self._fresh(size)

    def free(self, address: int, size: int) -> None:  # noqa: ARG002 - addresses are never reused
        """Release a segment."""
        self._used_bytes -= size

    def reserve(self, size: int) -> int:
        """Return a freed address range of this size, or one below all earlier ones."""
        released = self._released[size]
        return -heappop(released) if released else self._fresh(size)

    def release(self, address: int, size: int) -> None:
        """Release an address range."""
        heappush(self._released[size], -address)

    def map(self, address: int, size: int) -> bool:  # noqa: ARG002 - only the amount counts here
        """Back a range with memory; False if the card is full."""
        return self._take(size)

    def unmap(self, address: int, size: int) -> None:
        """Release the memory behind a range."""
        self.free(address, size)

    def _fresh(self, size: int) -> int:
        if size > self._lowest_address:
            raise OverflowError(f"no simulated addresses are left for {size} bytes")
        self._lowest_address -= size
        return self._lowest_address

    def _take(self, size: int) -> bool:
        if self._available_bytes is not None and self._used_bytes + size > self._available_bytes:
            return False
        self._used_bytes += size
        return True
