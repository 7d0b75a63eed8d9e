"""Memory against batch as a line: it is nearly affine, so two peaks predict a third."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Memory as `fixed + per_image * batch`, in bytes."""

    fixed_bytes: float
    per_image_bytes: float

    def at(self, batch: int) -> float:
        """Return the bytes that a batch should take."""
        return self.fixed_bytes + self.per_image_bytes * batch

    def largest_within(self, budget_bytes: float) -> int | None:
        """Return the largest batch within a budget in bytes; None if the line does not rise."""
        if self.per_image_bytes <= 0:
            return None
        return max(0, int((budget_bytes - self.fixed_bytes) // self.per_image_bytes))


def line_through(peaks: Sequence[tuple[int, int]]) -> Line | None:
    """Return the line through the two largest batches; None if there are fewer than two.

    Smaller batches run other kernels and would only distort it.

    Args:
        peaks: Pairs of a batch and its peak in bytes.
    """
    points = sorted(dict(peaks).items())[-2:]
    if len(points) < 2:  # noqa: PLR2004 - a line takes two points
        return None
    (b0, p0), (b1, p1) = points
    slope = (p1 - p0) / (b1 - b0)
    return Line(fixed_bytes=p1 - slope * b1, per_image_bytes=slope)


def slope_through(batch: int, size_bytes: int, others: Mapping[int, int]) -> int:
    """Return the bytes per image of the line through one batch that is nearest to others.

    Least squares. A kernel that chooses its algorithm by the batch gives no line; the slope is then
    limited so that neither the fixed part nor the part per image is negative.

    Args:
        batch: The batch that the line goes through.
        size_bytes: Its size.
        others: The sizes of other batches.
    """
    squares = sum((other - batch) ** 2 for other in others)
    if not squares:
        return 0
    products = sum((other - batch) * (size - size_bytes) for other, size in others.items())
    return min(max(0, products // squares), size_bytes // batch)
