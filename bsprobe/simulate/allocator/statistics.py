"""The counters of the caching allocator."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorStatistics:
    """The counters of `torch.cuda.memory_stats()`: `allocated_bytes.all.current` and so on."""

    allocated_bytes: int
    """Sizes of the allocated blocks: requests, rounding and unsplit remainders."""
    peak_allocated_bytes: int
    requested_bytes: int
    """Requested bytes of the active blocks, before rounding."""
    peak_requested_bytes: int
    active_bytes: int
    """Allocated blocks, and freed blocks that wait for another stream."""
    peak_active_bytes: int
    reserved_bytes: int
    """Sizes of all segments."""
    peak_reserved_bytes: int
    segments: int
    """Number of segments from cudaMalloc; as in PyTorch, without expandable ones."""
    peak_segments: int
    num_alloc_retries: int
    """Number of times that the cache was flushed because the card was full."""
    num_ooms: int
    """Number of allocations that failed even after a flush."""
