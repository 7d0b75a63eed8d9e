"""The counters of the caching allocator."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorStatistics:
    """What `torch.cuda.memory_stats()` calls `allocated_bytes.all.current`, `….peak` and so on."""

    allocated_bytes: int
    """Sum of the blocks handed out: what was asked for, rounded, and what was not split off."""
    peak_allocated_bytes: int
    requested_bytes: int
    """Sum of the requests behind the active blocks, as asked for."""
    peak_requested_bytes: int
    active_bytes: int
    """Allocated blocks, and freed ones that still wait for another stream."""
    peak_active_bytes: int
    reserved_bytes: int
    """Sum of the segments: what the allocator holds of the card."""
    peak_reserved_bytes: int
    segments: int
    """Segments from cudaMalloc; as in PyTorch, expandable ones are not counted."""
    peak_segments: int
    num_alloc_retries: int
    """How often the cache was flushed because the card was full."""
    num_ooms: int
    """How often not even that helped."""
