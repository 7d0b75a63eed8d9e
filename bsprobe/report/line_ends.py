"""Names of lines at their ends, in place of a legend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEnd:
    """The last point of a line, in the units of its axes, and its label."""

    place: float
    value: float
    name: str
    colour: str


def label_ends(
    axes: Axes, ends: Sequence[LineEnd], *, gap: float = 0.05, near: float = math.inf
) -> None:
    """Name each line at its end, and move labels upwards if they would overlap.

    Args:
        axes: Axes whose limits are final.
        ends: One for each line.
        gap: The least distance of labels, as a share of the height of the axes.
        near: Ends that are further apart on the horizontal axis, in its units, do not overlap.
    """
    bottom, top = axes.get_ylim()
    placed: list[tuple[float, float]] = []
    for end in sorted(ends, key=lambda end: end.value):
        below = [y for x, y in placed if abs(x - end.place) <= near]
        at = max([end.value, *(y + (top - bottom) * gap for y in below)])
        placed.append((end.place, at))
        axes.annotate(
            end.name,
            xy=(end.place, at),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=end.colour,
            annotation_clip=False,
            zorder=5,  # above the marks of other lines; the white edge keeps the name readable
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
