"""The constants of PyTorch's CUDA caching allocator, each with the symbol it comes from."""

from dataclasses import dataclass
from typing import Final

from bsprobe.records.units import MIB

NO_LIMIT: Final = 2**63
"""More bytes than any memory has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRules:
    """The constants of the allocator, in bytes; the defaults are PyTorch's own.

    Symbols that begin with k stand in c10/core/AllocatorConfig.h, and in earlier versions in
    c10/cuda/CUDACachingAllocator.cpp, where the functions are.
    """

    rounding_bytes: int = 512
    """Block sizes are multiples of this (`kMinBlockSize`)."""
    small_request_bytes: int = MIB
    """The largest rounded request that the small pool serves (`kSmallSize`)."""
    small_segment_bytes: int = 2 * MIB
    """A segment of the small pool, and its page where expandable (`kSmallBuffer`)."""
    medium_request_end_bytes: int = 10 * MIB
    """Requests below this share a segment of fixed size (`kMinLargeAlloc`)."""
    medium_segment_bytes: int = 20 * MIB
    """That segment, and the large pool's page where expandable (`kLargeBuffer`, later
    `large_segment_size`)."""
    large_rounding_bytes: int = 2 * MIB
    """Larger requests get a segment of their own, a multiple of this (`kRoundLarge`)."""
    small_remainder_bytes: int = 512
    """The least remainder that the small pool, and any expandable segment, splits off
    (`should_split`: remaining >= kMinBlockSize)."""
    large_remainder_bytes: int = MIB + 1
    """The least remainder that the large pool splits off (`should_split`: more than kSmallSize)."""
    max_split_size_bytes: int = NO_LIMIT
    """Blocks of this size or more are oversize: never split, and kept for requests as large
    (`max_split_size_mb`, off by default)."""
    oversize_slack_bytes: int = 20 * MIB
    """An oversize block serves a request only if it is larger by less than this (`get_free_block`:
    kLargeBuffer, later `max_non_split_rounding_size`)."""


DEFAULT_RULES: Final = AllocatorRules()
