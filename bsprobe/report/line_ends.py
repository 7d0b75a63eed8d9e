"""Names at the ends of lines, which a reader finds sooner than in a legend."""

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
    """Name each line at its end, labels pushed upwards where they would overlap.

    Args:
        axes: Whose limits are set already: labels are placed by them.
        ends: One for each line.
        gap: Share of the height of the axes that labels stay apart.
        near: Along the axis, in its units: ends further from each other than this do not meet.
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
            zorder=5,  # above the marks of other lines, with an edge that keeps the name readable
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
