"""Record of memory that grows from step to step."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The growth of memory at one batch."""

    batch: int
    """The micro-batch, in images."""
    bytes_per_step: int
    """Bytes that each step leaves allocated in addition."""
    steps: int
    """Steps that the trial ran."""
    full_at_step: int
    """The step at which no memory is left if it goes on so: an estimate, as memory fragments."""
