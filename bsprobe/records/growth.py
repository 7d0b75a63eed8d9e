"""Record of memory that grows from step to step."""

from dataclasses import dataclass
from typing import Final

_LONGEST_TRAINING_STEPS: Final = 1_000_000
"""No training is expected to take more steps. A list of losses as scalars fills no memory within
them; a list of outputs does."""


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

    @property
    def ends_trainings(self) -> bool:
        """True if the memory is full before a long training ends."""
        return self.full_at_step <= _LONGEST_TRAINING_STEPS
