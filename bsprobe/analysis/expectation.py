"""What a prediction says of a search before its first trial, and what that trial corrects."""

from dataclasses import dataclass
from typing import Self

from bsprobe.analysis.memory_line import Line, line_through
from bsprobe.records.runs import Prediction


def half_of(largest: int) -> int:
    """The batch at which a search compares a predicted peak with a measured one."""
    return max(1, largest // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is predicted of a search."""

    largest: int
    """The largest batch that should run, at least 1."""
    line: Line | None
    """Memory against batch as predicted; None where it is not known."""

    @classmethod
    def of(cls, prediction: Prediction) -> Self | None:
        """What a prediction says of a search; None where it says nothing."""
        if not prediction.largest:
            return None
        half = half_of(prediction.largest)
        at_half = [peak for peak in prediction.peaks if peak[0] == half]
        # Of two that lie close the allocator's rounding would decide about the slope.
        apart = [peak for peak in prediction.peaks if not half < 2 * peak[0] < 3 * half]
        return cls(largest=prediction.largest, line=line_through([*at_half, *apart[-1:]]))

    @property
    def half(self) -> int:
        """Where the prediction is compared with a measurement, well within the memory."""
        return half_of(self.largest)

    def corrected(self, peak_bytes: int | None) -> int:
        """The largest batch that should run, given the measured peak of `half`."""
        # A line that rises by less than a byte an image says nothing, and dividing by it overflows.
        if self.line is None or peak_bytes is None or self.line.per_image_bytes < 1:
            return self.largest
        too_high = peak_bytes - self.line.at(self.half)
        return self.largest - round(too_high / self.line.per_image_bytes)
