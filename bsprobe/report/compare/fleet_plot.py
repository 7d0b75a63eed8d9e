"""One picture of a fleet: what each variant reaches on each machine, the smallest to the left."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsprobe.analysis.fleet import Fleet, Member, Row, Subject
from bsprobe.records.runs import StopReason
from bsprobe.records.trials import Source
from bsprobe.records.units import GIB
from bsprobe.records.variants import labels
from bsprobe.report.line_ends import LineEnd, label_ends
from bsprobe.report.run.plots import COLOURS, GREY, MARKERS, STYLE, write_figure

_HEIGHT_INCHES = 3.5
"""Of each panel."""
_LABELS_INCHES = 3.0
_MACHINE_INCHES = 1.1
_NAME_WIDTH = 15
"""Characters of a machine's name on one line."""
_DODGE = 0.07
"""Of the distance between machines: equal values of several variants lie beside each other."""

_FigureOf = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A figure of one variant on one machine."""

    place: float
    value: float
    source: Source


def write_fleet_plot(fleet: Fleet, path: Path) -> None:
    """Write the picture as SVG and PNG; the path is without suffix."""
    with mpl.rc_context(STYLE):
        write_figure(fleet_figure(fleet), path)


def fleet_figure(fleet: Fleet) -> Figure:
    """For each network and size the largest batch, and below it images/s where that is known."""
    panels = [
        (subject, what, figure_of)
        for subject in _comparable(fleet)
        for what, figure_of in (("largest batch", _largest), ("images / s per GPU", _rate))
        if figure_of is _largest or _is_known(fleet, subject, figure_of)
    ]
    most = max(len(_members(fleet, subject)) for subject, _, _ in panels)
    size = (_LABELS_INCHES + _MACHINE_INCHES * most, 0.6 + _HEIGHT_INCHES * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False)
    for (axes,), (subject, what, figure_of) in zip(grid, panels, strict=True):
        _draw(axes, fleet, subject, figure_of)
        axes.set_ylabel(what)
        axes.set_title(subject.describe(), loc="left", fontsize=9, color=GREY)
    figure.suptitle(
        f"{len(fleet.members)} runs beside each other; below each machine its usable memory\n"
        "filled: measured; hollow and dashed: predicted",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure


def _comparable(fleet: Fleet) -> list[Subject]:
    """What more than one machine was asked for; everything where nothing was."""
    several = [each for each in fleet.subjects if len(_members(fleet, each)) > 1]
    return several or list(fleet.subjects)


def _largest(row: Row) -> float | None:
    if row.result is None:
        return None
    if row.result.boundary.stop is StopReason.NOTHING_FITS:
        return 0.0
    return row.result.boundary.largest


def _rate(row: Row) -> float | None:
    return row.images_per_second_per_gpu


def _is_known(fleet: Fleet, subject: Subject, figure_of: _FigureOf) -> bool:
    return any(figure_of(row) is not None for row in fleet.rows_of(subject))


def _members(fleet: Fleet, subject: Subject) -> list[Member]:
    names = {row.member for row in fleet.rows_of(subject)}
    return [member for member in fleet.members if member.name in names]


def _draw(axes: Axes, fleet: Fleet, subject: Subject, figure_of: _FigureOf) -> None:
    """A line a variant, from machine to machine, named at its end."""
    members = _members(fleet, subject)
    rows = fleet.rows_of(subject)
    names = labels(list(dict.fromkeys(row.variant for row in rows)))
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    ends: list[LineEnd] = []
    highest = 0.0
    for index, (variant, (colour, marker)) in enumerate(zip(names, styles, strict=False)):
        offset = (index - (len(names) - 1) / 2) * _DODGE
        points = _points(members, [r for r in rows if r.variant == variant], figure_of, offset)
        _line(axes, points, colour, marker)
        highest = max([highest, *(point.value for point in points)])
        if points:
            value = points[-1].value
            # All labels of a machine begin beside the last of its marks.
            place = points[-1].place - offset + len(names) / 2 * _DODGE
            name = f"{names[variant]}: {value:.3g}"
            ends.append(LineEnd(value=value, place=place, name=name, colour=colour))
    ticks = [
        f"{textwrap.fill(m.name, _NAME_WIDTH)}\n{m.device.capacity_bytes / GIB:.1f} GiB"
        for m in members
    ]
    axes.set_xticks(range(len(members)), ticks, fontsize=8.5)
    axes.set_xlim(-0.4, len(members) - 0.6)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, highest * 1.1 or 1)  # before the labels, which are placed by it
    label_ends(axes, ends)


def _points(
    members: Sequence[Member], rows: Sequence[Row], figure_of: _FigureOf, offset: float
) -> list[_Point]:
    """The points of a variant, in the order of the machines; none where nothing is known."""
    places = {member.name: place for place, member in enumerate(members)}
    return [
        _Point(place=places[row.member] + offset, value=value, source=row.source)
        for row in rows
        if (value := figure_of(row)) is not None
    ]


def _line(axes: Axes, points: Sequence[_Point], colour: str, marker: str) -> None:
    """Solid between what was measured, dashed where one end of a stretch is predicted.

    No line passes over a machine of which nothing is known.
    """
    for one, other in itertools.pairwise(points):
        if round(other.place - one.place) > 1:
            continue
        is_measured = one.source is other.source is Source.MEASURED
        axes.plot(
            [one.place, other.place],
            [one.value, other.value],
            color=colour,
            lw=1.4,
            linestyle="-" if is_measured else "--",
        )
    for point in points:
        face = colour if point.source is Source.MEASURED else "white"
        axes.plot(
            [point.place], [point.value], marker, color=colour, markerfacecolor=face, ms=6, mew=1.6
        )
