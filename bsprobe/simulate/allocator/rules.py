"""The constants of PyTorch's CUDA caching allocator, with their symbols in its source."""

from dataclasses import dataclass
from typing import Final

from bsprobe.records.units import MIB

NO_LIMIT: Final = 2**63
"""A number of bytes that no card has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRules:
    """The constants of the allocator, in bytes. The defaults are PyTorch's.

    Symbols that begin with k are in c10/core/AllocatorConfig.h, in earlier versions in
    c10/cuda/CUDACachingAllocator.cpp, which also has the functions.
    """

    rounding_bytes: int = 512
    """Block sizes are multiples of this (`kMinBlockSize`)."""
    small_request_bytes: int = MIB
    """The largest rounded request that the small pool serves (`kSmallSize`)."""
    small_segment_bytes: int = 2 * MIB
    """Segment size of the small pool, and page size of its expandable segments
    (`kSmallBuffer`)."""
    medium_request_end_bytes: int = 10 * MIB
    """Requests below this size share segments of `medium_segment_bytes` (`kMinLargeAlloc`)."""
    medium_segment_bytes: int = 20 * MIB
    """Segment size for medium requests, and page size of the large pool's expandable segments
    (`kLargeBuffer`, later `large_segment_size`)."""
    large_rounding_bytes: int = 2 * MIB
    """Larger requests each get a segment of a multiple of this size (`kRoundLarge`)."""
    small_remainder_bytes: int = 512
    """Smallest remainder that the small pool and expandable segments split off (`should_split`:
    remaining >= kMinBlockSize)."""
    large_remainder_bytes: int = MIB + 1
    """Smallest remainder that the large pool splits off (`should_split`: more than kSmallSize)."""
    max_split_size_bytes: int = NO_LIMIT
    """Blocks of at least this size are oversize: they are not split, and serve only requests of at
    least this size (`max_split_size_mb`, off by default)."""
    oversize_slack_bytes: int = 20 * MIB
    """An oversize block serves a request only if it is larger by less than this (`get_free_block`:
    kLargeBuffer, later `max_non_split_rounding_size`)."""


DEFAULT_RULES: Final = AllocatorRules()
