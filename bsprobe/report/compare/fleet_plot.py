"""The picture of a fleet: largest batches and images/s by machine."""

import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsprobe.analysis.fleet import Fleet, Member, Row, Subject
from bsprobe.records.runs import StopReason
from bsprobe.records.trials import Source
from bsprobe.records.units import GIB, format_rate
from bsprobe.records.variants import labels
from bsprobe.report.escaping import cleaned
from bsprobe.report.run.plots import COLOURS, GREY, STYLE, legend_name, write_figure

_HEIGHT_INCHES = 3.5
"""The height of each panel."""
_LABELS_INCHES = 3.0
_MACHINE_INCHES = 1.3
_NAME_WIDTH = 15
"""Characters of a machine's name on one line."""
_TITLE_WIDTH = 60
"""Characters of a line of the title of a panel."""
_GROUP_WIDTH = 0.8
"""The share of the distance between machines that the bars of one take."""
_BAR_SHARE = 0.85
"""The share of its place that a bar takes."""

_FigureOf = Callable[[Row], float | None]


def write_fleet_plot(fleet: Fleet, path: Path) -> None:
    """Write the picture as SVG and PNG; the path is without suffix."""
    with mpl.rc_context(STYLE):
        write_figure(fleet_figure(fleet), path)


def fleet_figure(fleet: Fleet) -> Figure:
    """Draw the largest batch of each network and size, and images/s below if known."""
    fleet = cleaned(fleet)
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
        title = textwrap.fill(subject.describe(), _TITLE_WIDTH, break_on_hyphens=False)
        axes.set_title(title, loc="left", fontsize=9, color=GREY)
    figure.suptitle(
        f"{len(fleet.members)} runs; below each machine its usable memory\n"
        "filled: measured; hollow: predicted",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure


def _comparable(fleet: Fleet) -> list[Subject]:
    """The subjects that were probed on several machines; all if there are none."""
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
    """A group of bars a machine, a bar a variant, with its figure above it."""
    members = _members(fleet, subject)
    rows = fleet.rows_of(subject)
    names = labels(list(dict.fromkeys(row.variant for row in rows)))
    places = {member.name: place for place, member in enumerate(members)}
    width = _GROUP_WIDTH / len(names)
    highest = 0.0
    for index, (variant, colour) in enumerate(zip(names, itertools.cycle(COLOURS), strict=False)):
        offset = (index - (len(names) - 1) / 2) * width
        axes.bar(0, 0, color=colour, label=legend_name(names[variant]))  # the legend's: filled
        for row in (row for row in rows if row.variant == variant):
            if (value := figure_of(row)) is not None:
                _bar(axes, places[row.member] + offset, value, row.source, colour, width)
                highest = max(highest, value)
    ticks = [
        f"{textwrap.fill(m.name, _NAME_WIDTH)}\n{m.device.capacity_bytes / GIB:.1f} GiB"
        for m in members
    ]
    axes.set_xticks(range(len(members)), ticks, fontsize=8.5)
    axes.set_xlim(-0.6, len(members) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, highest * 1.1 or 1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)


def _bar(axes: Axes, place: float, value: float, source: Source, colour: str, width: float) -> None:
    """A bar, filled if it was measured."""
    is_measured = source is Source.MEASURED
    axes.bar(
        place,
        value,
        width=width * _BAR_SHARE,
        color=colour if is_measured else "white",
        edgecolor=colour,
        linewidth=1.4,
    )
    axes.annotate(
        format_rate(value),
        xy=(place, value),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=colour,
    )
