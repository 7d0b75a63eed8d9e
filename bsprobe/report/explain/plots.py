"""Memory over one step as stacked areas: by kind and by module."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsprobe.records.explanations import NOT_ATTRIBUTED, OTHER_MODULES, OUTSIDE, Explanation, Series
from bsprobe.records.units import GIB, format_bytes
from bsprobe.report.escaping import cleaned
from bsprobe.report.explain.places import during
from bsprobe.report.run.plots import COLOURS, STYLE, legend_name, set_title, write_figure

_OUTSIDE_COLOUR = "#555555"
_CACHED_COLOUR = "#dddddd"
_OTHER_COLOUR = "#999999"
_UNKNOWN_COLOUR = "#8C564B"
KIND_COLOURS = {
    "parameters": "#0072B2",
    "buffers": "#004766",
    "optimizer state": "#56B4E9",
    "gradient buckets": "#004D38",
    "gradients": "#009E73",
    "weight copies": "#CC79A7",
    "batch": "#F0E442",
    "outputs": "#7A4F00",
    "saved activations": "#E69F00",
    "temporaries": "#D55E00",
    "workspace": "#000000",
    NOT_ATTRIBUTED: _UNKNOWN_COLOUR,
}
"""From the bottom up, long-lived kinds first; Okabe & Ito's colours, as `plots.COLOURS`."""
PICTURES = ("step-by-kind", "step-by-module")
"""The names of the pictures, without suffix."""
_SIZE_INCHES = (9.0, 4.8)

_Area = tuple[str, str, Sequence[int]]
"""A name, a colour, bytes at each sample."""


def write_explanation_plots(explanation: Explanation, folder: Path, *, prefix: str = "") -> None:
    """Write both pictures, `PICTURES`, as SVG and PNG.

    Args:
        explanation: The explanation to draw.
        folder: The folder of the pictures.
        prefix: Put before their names.
    """
    figures = (kinds_figure(explanation), modules_figure(explanation))
    with mpl.rc_context(STYLE):
        for name, figure in zip(PICTURES, figures, strict=True):
            write_figure(figure, folder / f"{prefix}{name}")


def write_kinds_plot(explanation: Explanation, path: Path) -> None:
    """Write the picture by kind as SVG and PNG; the path is without suffix."""
    with mpl.rc_context(STYLE):
        write_figure(kinds_figure(explanation), path)


def kinds_figure(explanation: Explanation) -> Figure:
    """Draw memory over one step by kind, with the phases, the capacity and the next batch."""
    explanation = cleaned(explanation)
    series = {each.name: each.sizes_bytes for each in explanation.timeline.by_kind}
    areas = [
        (name, colour, series[name]) for name, colour in KIND_COLOURS.items() if name in series
    ]
    return _figure(explanation, areas, "kind")


def modules_figure(explanation: Explanation) -> Figure:
    """Draw memory over one step by module, else as `kinds_figure`."""
    explanation = cleaned(explanation)
    apart = {NOT_ATTRIBUTED: _UNKNOWN_COLOUR, OTHER_MODULES: _OTHER_COLOUR}
    series = {each.name: each.sizes_bytes for each in explanation.timeline.by_module}
    named = [name for name in series if name not in apart]
    colours = dict(zip(named, itertools.cycle(COLOURS), strict=False)) | apart
    areas = [(name, colour, series[name]) for name, colour in colours.items() if name in series]
    return _figure(explanation, areas, "module")


def _figure(explanation: Explanation, inside: Sequence[_Area], what: str) -> Figure:
    timeline, spec = explanation.timeline, explanation.spec
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    set_title(
        figure,
        f"Memory over one step by {what}: {spec.variant.network}, {spec.variant.inputs}, batch "
        f"{spec.batch_size}",
        explanation.source,
    )
    outside = [explanation.outside_allocator_bytes] * len(timeline.at)
    areas = [(OUTSIDE, _OUTSIDE_COLOUR, outside), *inside, _cached(explanation, timeline.by_kind)]
    _stack(axes, timeline.at, areas)
    top = [sum(column) / GIB for column in zip(*(sizes for _, _, sizes in areas), strict=True)]
    highest = max(*top, explanation.capacity_bytes / GIB)
    if timeline.next_allocated_bytes:
        following = [
            (size + explanation.outside_allocator_bytes) / GIB
            for size in timeline.next_allocated_bytes
        ]
        axes.plot(
            timeline.at,
            following,
            color="#444444",
            lw=1.0,
            ls=(0, (3, 2)),
            label=f"in use at batch {spec.batch_size + 1}",
        )
        highest = max(highest, *following)
    axes.axhline(explanation.capacity_bytes / GIB, color="#B00020", lw=1.6)
    axes.set_title(
        f"red line: {format_bytes(explanation.capacity_bytes)} usable; the peak is "
        f"{format_bytes(explanation.peak_bytes)}, {during(explanation.phase)}"
        + ("" if explanation.fits else "; this batch does not fit: simulated without the limit"),
        loc="left",
        fontsize=8,
        color="#444444",
    )
    axes.set_ylim(0, highest * 1.12)
    axes.set_xlim(0, timeline.events)
    axes.set_xlabel("allocations, frees and kernels of one training step, in order")
    axes.set_ylabel("GiB")
    _mark_phases(axes, explanation)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], names[::-1], loc="outside right center", fontsize=8.5, frameon=False
    )
    return figure


def _cached(explanation: Explanation, series: Iterable[Series]) -> _Area:
    """Memory that is reserved and not in use."""
    used = [sum(column) for column in zip(*(each.sizes_bytes for each in series), strict=True)]
    reserved = explanation.timeline.reserved_bytes
    rest = [max(0, all_ - part) for all_, part in zip(reserved, used, strict=True)]
    return "reserved, not in use", _CACHED_COLOUR, rest


def _stack(axes: Axes, at: Sequence[int], areas: Sequence[_Area]) -> None:
    axes.stackplot(
        at,
        *[[size / GIB for size in sizes] for _, _, sizes in areas],
        colors=[colour for _, colour, _ in areas],
        labels=[legend_name(name) for name, _, _ in areas],
        linewidth=0,
    )


def _mark_phases(axes: Axes, explanation: Explanation) -> None:
    """A line where each phase begins, its name above."""
    top = axes.get_ylim()[1]
    for mark in explanation.timeline.marks:
        axes.axvline(mark.event, color="#444444", lw=0.8, ls=":")
        axes.annotate(
            mark.phase,
            xy=(mark.event, top),
            xytext=(3, -11),
            textcoords="offset points",
            fontsize=9,
            color="#444444",
        )
