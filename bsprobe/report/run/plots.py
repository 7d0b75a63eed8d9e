"""Plots over the batch size: memory with the capacity, and images per second."""

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Run, VariantResult
from bsprobe.records.trials import REPEATED, Source, Trial
from bsprobe.records.units import GIB, format_bytes
from bsprobe.report.escaping import cleaned
from bsprobe.report.line_ends import LineEnd, label_ends
from bsprobe.report.run.sentences import row_names
from bsprobe.storage.files import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito 2008: colour-blind readers can tell them apart; in grey the markers differ."""
GREY = "#444444"
"""The colour of limits and explanations."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    # Names with dollar signs are no formulas.
    "text.parse_math": False,
    # Without these two an SVG differs from run to run.
    "svg.hashsalt": "bsprobe",
    "svg.fonttype": "path",
}
_WIDTH_INCHES, _HEIGHT_INCHES = 8.0, 4.5
_ROW_INCHES = 0.22
"""The height of the row of one variant, above the memory."""
_DPI = 150
_HIDES = 0.01
"""Lines that differ by a smaller share hide each other."""

_FigureOf = Callable[[Trial], float | None]
_PointList = list[tuple[int, float]]
"""(batch, figure), by batch."""


def write_plots(run: Run, folder: Path) -> list[str]:
    """Write the plots that there is data for, as SVG and PNG; return their names without suffix."""
    written = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("memory", memory_figure(run)),
            ("throughput", throughput_figure(run)),
        ):
            if figure is not None:
                write_figure(figure, folder / name)
                written.append(name)
    return written


def memory_figure(run: Run) -> Figure | None:
    """Draw peak memory against batch, and above it the batches that ran or failed."""
    capacity = run.device.capacity_bytes / GIB
    target = run.settings.target
    if all(_peak_gib(trial) is None for trial in run.trials):
        return None
    run = cleaned(run)
    rows = len(run.results)
    tried_inches = _ROW_INCHES * (rows + 1)
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES + tried_inches), layout="constrained")
    tried, axes = figure.subplots(2, 1, sharex=True, height_ratios=(tried_inches, _HEIGHT_INCHES))
    _set_up(figure, axes, run, f"Peak memory on {run.device.name}", "GiB")
    for result, style, points in _lines(axes, run, _peak_gib):
        _tried(tried, run, result, style, points)
    _name_rows(tried, run)
    axes.axhline(capacity, color=GREY, lw=1.2)
    budget = target.budget_bytes(run.device.capacity_bytes) / GIB
    axes.axhspan(budget, capacity, color=GREY, alpha=0.12, lw=0)
    axes.set_ylim(0, capacity * 1.04)
    tried.set_title(
        f"line: {format_bytes(run.device.capacity_bytes)} usable; shaded: {target.headroom:.0%} "
        "headroom; above: batches that ran, crosses: out of memory",
        loc="left",
        fontsize=8,
        color=GREY,
    )
    return figure


def _tried(
    tried: Axes, run: Run, result: VariantResult, style: tuple[str, str], points: _PointList
) -> None:
    """A row: a mark at each batch that ran, a cross at each that ran out of memory."""
    colour, marker = style
    row = run.results.index(result)
    failed = [
        trial.spec.batch_size
        for trial in _of(run, result)
        if trial.outcome is Outcome.OUT_OF_MEMORY and trial.spec.accumulation_steps == 1
    ]
    ran = [batch for batch, _ in points]
    tried.plot(ran, [row] * len(ran), linestyle="", marker=marker, color=colour, ms=4)
    tried.plot(failed, [row] * len(failed), "x", color=colour, ms=6, mew=1.8)


def _name_rows(tried: Axes, run: Run) -> None:
    """The names of the variants at the ends of their rows, as the legend of both axes."""
    labelled = row_names(run.settings.variants)
    names = [labelled[result.variant] for result in run.results]
    tried.set_ylim(len(run.results) - 0.5, -0.5)
    tried.yaxis.tick_right()
    tried.set_yticks(range(len(run.results)), names, fontsize=9)
    for text, colour in zip(tried.get_yticklabels(), itertools.cycle(COLOURS), strict=False):
        text.set_color(colour)
    tried.tick_params(length=0, labelbottom=False)
    tried.spines[:].set_visible(False)


def throughput_figure(run: Run) -> Figure | None:
    """Draw images per second against batch; None if nothing was timed."""
    run = cleaned(run)
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    axes = figure.add_subplot()
    _set_up(figure, axes, run, f"Throughput on {run.device.name}", "images / s")
    ends: list[LineEnd] = []
    highest = 0.0
    for result, (colour, _), points in _lines(axes, run, _rate):
        highest = max([highest, *(rate for _, rate in points)])
        ends += _end(run, result, points, colour)
    if not ends:
        return None
    axes.set_ylim(0, highest * 1.1)
    label_ends(axes, ends)
    return figure


def _peak_gib(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.peak_bytes / GIB


def _rate(trial: Trial) -> float | None:
    return None if trial.measurement is None else trial.measurement.images_per_second


def _set_up(figure: Figure, axes: Axes, run: Run, title: str, unit: str) -> None:
    """Set the title, the labels and the limits of the axes."""
    variant = run.settings.variants[0]
    set_title(figure, f"{title}: {variant.title}", run.device.source)
    each = " and process" if run.processes > 1 else ""
    axes.set_xlabel(f"batch size (images per forward pass{each})")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    largest = max((t.spec.batch_size for t in run.trials), default=1)
    axes.set_xlim(0, largest * 1.04 + 0.5)


def _of(run: Run, result: VariantResult) -> list[Trial]:
    return [
        trial
        for trial in run.trials
        if trial.spec.variant == result.variant and trial.purpose not in REPEATED
    ]


def _points(run: Run, result: VariantResult, figure_of: _FigureOf) -> _PointList:
    """(batch, figure) of the trials without accumulation; of a batch the last trial counts."""
    values = {
        trial.spec.batch_size: figure_of(trial)
        for trial in _of(run, result)
        if trial.spec.accumulation_steps == 1
    }
    return sorted((batch, value) for batch, value in values.items() if value is not None)


def _lines(
    axes: Axes, run: Run, figure_of: _FigureOf
) -> Iterator[tuple[VariantResult, tuple[str, str], _PointList]]:
    """Draw the variants' lines one by one; yield each with colour, marker and points."""
    series = [_points(run, result, figure_of) for result in run.results]
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    for place, (result, points, style) in enumerate(zip(run.results, series, styles, strict=False)):
        is_covered = any(_hides(later, points) for later in series[place + 1 :])
        _line(axes, run, points, *style, is_covered=is_covered)
        yield result, style, points


def _hides(upper: _PointList, lower: _PointList) -> bool:
    """Return whether a line that is drawn later hides another one completely."""
    above = dict(upper)
    return all(
        batch in above and math.isclose(value, above[batch], rel_tol=_HIDES)
        for batch, value in lower
    )


def _line(
    axes: Axes,
    run: Run,
    points: Sequence[tuple[int, float]],
    colour: str,
    marker: str,
    *,
    is_covered: bool,
) -> None:
    """A line and its marks; wider if a later line covers it, so that both are visible."""
    dashed = "--" if run.device.source is Source.PREDICTED else "-"
    axes.plot(
        [batch for batch, _ in points],
        [value for _, value in points],
        linestyle=dashed,
        marker=marker,
        color=colour,
        ms=10 if is_covered else 5,
        lw=4.5 if is_covered else 1.6,
    )


def _end(
    run: Run, result: VariantResult, points: Sequence[tuple[int, float]], colour: str
) -> list[LineEnd]:
    """The end of a line with its name; empty for a line without points."""
    if not points:
        return []
    batch, value = points[-1]
    return [
        LineEnd(
            value=value,
            place=batch,
            name=row_names(run.settings.variants)[result.variant],
            colour=colour,
        )
    ]


def set_title(
    figure: Figure, text: str, source: Source, *, below: str = "", points: float = 11
) -> None:
    """Set the title of a picture; its source comes first if the text leaves no room for it.

    Args:
        figure: The picture.
        text: The title.
        source: The source of the figures.
        below: Lines below the title.
        points: The size of the letters.
    """
    title = figure.suptitle(f"{text}  [{source}]{below}", x=0.01, ha="left", fontsize=points)
    with _any_text():
        is_cut = title.get_window_extent().x1 > figure.bbox.x1
    if is_cut:
        title.set_text(f"[{source}]  {text}{below}")


def legend_name(name: str) -> str:
    """Return a name for a legend; matplotlib leaves out names that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


@contextmanager
def _any_text() -> Iterator[None]:
    """Ignore characters that the font lacks, and names that leave no room for the axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def write_figure(figure: Figure, path: Path) -> None:
    """Write a picture as SVG and PNG, the same bytes every time."""
    for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": _DPI})):
        data = io.BytesIO()
        with _any_text():
            figure.savefig(data, format=suffix[1:], **options)
        write_atomically(path.with_suffix(suffix), data.getvalue())
