"""A prediction as the start of a search, and its correction by the first trial."""

from dataclasses import dataclass
from typing import Self

from bsprobe.analysis.memory_line import Line, line_through
from bsprobe.records.runs import Prediction


def half_of(largest: int) -> int:
    """Return the batch at which a search compares a predicted peak with a measured one."""
    return max(1, largest // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The prediction that a search begins with."""

    largest: int
    """The largest batch that should run, at least 1."""
    line: Line | None
    """Predicted memory against batch; None if it is not known."""

    @classmethod
    def of(cls, prediction: Prediction) -> Self | None:
        """Return the start of a search; None if no batch is predicted to run."""
        if not prediction.largest:
            return None
        half = half_of(prediction.largest)
        at_half = [peak for peak in prediction.peaks if peak[0] == half]
        # The allocator's rounding would determine the slope between two close points.
        apart = [peak for peak in prediction.peaks if not half < 2 * peak[0] < 3 * half]
        return cls(largest=prediction.largest, line=line_through([*at_half, *apart[-1:]]))

    @property
    def half(self) -> int:
        """The batch at which the prediction is compared with a measurement."""
        return half_of(self.largest)

    def corrected(self, peak_bytes: int | None) -> int:
        """Return the largest batch that should run, given the measured peak of `half`."""
        # Dividing by a slope of less than a byte per image could overflow.
        if self.line is None or peak_bytes is None or self.line.per_image_bytes < 1:
            return self.largest
        too_high = peak_bytes - self.line.at(self.half)
        return self.largest - round(too_high / self.line.per_image_bytes)
