"""Pictures of a study: the curves, the batches beside each other, the data loader."""

import io
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bsprobe.files import write_atomically
from bsprobe.report.plots import COLOURS, MARKERS, STYLE
from bsprobe.report.study import sentences
from bsprobe.study_records import Chance, CurvePoint, Study, TrainingResult
from bsprobe.units import MIB
from bsprobe.verdict import BatchSummary, Verdict, recommended_loading

_DPI = 150
_CURVES_INCHES = (11.0, 6.4)
_BATCHES_INCHES = (11.0, 3.8)
_LOADER_INCHES = (8.0, 3.2)
_GREY = "#555555"
_LABEL_GAP = 0.06
"""Of the height of the axes: labels at line ends stay this far apart."""
_LOSS_TOP = 1.5
"""Times the larger of the first loss and the constant's: what diverges leaves the picture."""

_FigureOf = Callable[[CurvePoint], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One batch: the mean over its seeds, and the range."""

    batch: int
    colour: str
    marker: str
    points: tuple[tuple[CurvePoint, ...], ...]
    """Per validation, the point of each seed that came so far."""


def write_study_plots(study: Study, folder: Path) -> list[str]:
    """Write the plots there is data for, as SVG and PNG; return their names without suffix."""
    found, chosen = sentences.chosen_of(study)
    chance = next((t.result.chance for t in study.trainings if t.result is not None), None)
    figures: list[tuple[str, Figure]] = []
    with mpl.rc_context(STYLE):
        if chance is not None:
            figures.append(("curves", curves_figure(study, found, chance)))
        if chosen is not None and chance is not None:
            figures.append(("batches", batches_figure(study, found, chosen, chance)))
        if study.loading is not None:
            figures.append(("loader", loader_figure(study)))
        for name, figure in figures:
            _write(figure, folder / name)
    return [name for name, _ in figures]


def curves_figure(study: Study, found: Sequence[BatchSummary], chance: Chance) -> Figure:
    """Validation mean IoU and loss against updates, images and seconds of training."""
    figure = Figure(figsize=_CURVES_INCHES, layout="constrained")
    grid = figure.subplots(2, 3, sharex="col", sharey="row")
    lines = _lines(found)
    figure.suptitle(
        f"Validation, {sentences.subject(study.settings)}  [{study.device.source}]",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    columns: tuple[tuple[str, Callable[[CurvePoint], float]], ...] = (
        ("updates", lambda point: point.updates),
        ("training images seen", lambda point: point.images),
        (f"seconds of training on {study.device.kind}", lambda point: point.seconds),
    )
    top = _loss_top(lines, chance)
    for column, (label, across) in enumerate(columns):
        upper, lower = grid[0][column], grid[1][column]
        _curves(upper, lines, across, lambda point: point.mean_iou, chance.mean_iou)
        _curves(lower, lines, across, lambda point: point.validation_loss, chance.loss)
        lower.set_xlabel(label)
        lower.set_xlim(left=0)
        # Labels only now: they are placed by the limits of both axes.
        upper.set_ylim(0, _highest(lines) * 1.1)
        lower.set_ylim(0, top)
        for axes, figure_of in ((upper, _iou), (lower, _loss)):
            _label_ends(axes, lines, across, figure_of)
    grid[0][0].set_ylabel("mean IoU")
    grid[1][0].set_ylabel("loss")
    if any(value > top for value in _losses(lines)):
        grid[1][0].set_title(
            "losses above the frame are not drawn", loc="left", fontsize=8, color=_GREY
        )
    grid[0][0].set_title(
        "numbers at line ends: effective batch; line: mean over seeds; shaded: their range; "
        f"dashed: best constant prediction ({chance.mean_iou:.3f})",
        loc="left",
        fontsize=8,
        color=_GREY,
    )
    return figure


def batches_figure(
    study: Study, found: Sequence[BatchSummary], chosen: Verdict, chance: Chance
) -> Figure:
    """What is learnt, how fast, in how much memory: three panels over the effective batch."""
    figure = Figure(figsize=_BATCHES_INCHES, layout="constrained")
    learnt, fast, memory = figure.subplots(1, 3)
    figure.suptitle(
        f"Effective batches after {study.settings.images_seen} images, "
        f"{sentences.subject(study.settings)}  [{study.device.source}]\n"
        "star: recommended; dots: seeds; dashed: best constant prediction; dotted and shaded: "
        "gradient noise scale and its interval",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    batches = [summary.batch for summary in found]
    for axes, title in (
        (learnt, "mean IoU at the end"),
        (fast, "images / s of training, loading included"),
        (memory, "peak memory, MiB"),
    ):
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(batches))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xlim(min(batches) / 1.4, max(batches) * 1.4)
        axes.set_xlabel("effective batch")
    _draw_learnt(learnt, found, chosen, chance)
    rates = [(each.batch, each.images_per_second) for each in found]
    _draw_points(fast, [(batch, rate) for batch, rate in rates if rate is not None])
    peaks = [(each.batch, each.peak_bytes) for each in found]
    _draw_points(memory, [(batch, peak / MIB) for batch, peak in peaks if peak is not None])
    return figure


def loader_figure(study: Study) -> Figure:
    """Each setting of the data loader beside what the step takes."""
    loading = study.loading
    assert loading is not None  # noqa: S101 - the caller's condition
    best = recommended_loading(loading)
    figure = Figure(figsize=_LOADER_INCHES, layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(loading.rates))
    alone = [rate.alone_images_per_second for rate in loading.rates]
    fed = [rate.fed_images_per_second for rate in loading.rates]
    step = loading.step_images_per_second
    axes.plot(alone, rows, linestyle="", marker="s", color=COLOURS[1], ms=6)
    axes.plot(fed, rows, linestyle="", marker="o", color=COLOURS[0], ms=7)
    axes.axvline(step, color=_GREY, lw=1.2, linestyle="--")
    names = [
        ("★ " if rate == best else "") + sentences.setting_words(rate) for rate in loading.rates
    ]
    axes.set_yticks(list(rows), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, max([*alone, *fed, step]) * 1.1)
    axes.set_xlabel("images / s")
    figure.suptitle(
        f"Data loader at batch {loading.effective_batch}  [{study.device.source}]",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    axes.set_title(
        "circle: training fed so; square: loader alone; dashed: the step on images in memory; "
        "★: recommended",
        loc="left",
        fontsize=8,
        color=_GREY,
    )
    return figure


def _lines(found: Sequence[BatchSummary]) -> list[_Line]:
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    lines = []
    for summary, (colour, marker) in zip(found, styles, strict=False):
        results = [t.result for t in summary.trainings if t.result is not None]
        if results:
            lines.append(
                _Line(
                    batch=summary.batch,
                    colour=colour,
                    marker=marker,
                    points=_by_validation(results),
                )
            )
    return lines


def _by_validation(results: Sequence[TrainingResult]) -> tuple[tuple[CurvePoint, ...], ...]:
    """The points of all seeds at each validation; a seed that diverged is in the first ones."""
    longest = max(len(result.curve) for result in results)
    return tuple(
        tuple(result.curve[place] for result in results if place < len(result.curve))
        for place in range(longest)
    )


def _iou(point: CurvePoint) -> float | None:
    return point.mean_iou


def _loss(point: CurvePoint) -> float | None:
    return point.validation_loss


def _curves(
    axes: Axes,
    lines: Sequence[_Line],
    across: Callable[[CurvePoint], float],
    figure_of: _FigureOf,
    chance: float,
) -> None:
    axes.axhline(chance, color=_GREY, lw=1.2, linestyle="--")
    for line in lines:
        drawn = _values(line, across, figure_of)
        places = [place for place, _ in drawn]
        axes.plot(
            places,
            [statistics.fmean(values) for _, values in drawn],
            color=line.colour,
            marker=line.marker,
            ms=3.5,
            lw=1.5,
        )
        axes.fill_between(
            places,
            [min(values) for _, values in drawn],
            [max(values) for _, values in drawn],
            color=line.colour,
            alpha=0.15,
            lw=0,
        )


def _values(
    line: _Line, across: Callable[[CurvePoint], float], figure_of: _FigureOf
) -> list[tuple[float, list[float]]]:
    """Where along the axis, and the figure of each seed there; points without a figure left out."""
    found = []
    for points in line.points:
        pairs = [(point, figure_of(point)) for point in points]
        values = [value for _, value in pairs if value is not None]
        if values:
            found.append((statistics.fmean(across(point) for point in points), values))
    return found


def _highest(lines: Sequence[_Line]) -> float:
    return max(point.mean_iou for line in lines for points in line.points for point in points)


def _losses(lines: Sequence[_Line]) -> list[float]:
    return [
        point.validation_loss
        for line in lines
        for points in line.points
        for point in points
        if point.validation_loss is not None
    ]


def _loss_top(lines: Sequence[_Line], chance: Chance) -> float:
    losses = _losses(lines)
    first = [
        point.validation_loss
        for line in lines
        for point in line.points[0]
        if point.validation_loss is not None
    ]
    return min(max(losses, default=chance.loss), _LOSS_TOP * max([chance.loss, *first])) * 1.05


def _label_ends(
    axes: Axes,
    lines: Sequence[_Line],
    across: Callable[[CurvePoint], float],
    figure_of: _FigureOf,
) -> None:
    """Write each line's batch at its end, apart from each other where ends lie close."""
    bottom, top = axes.get_ylim()
    ends = []
    for line in lines:
        drawn = _values(line, across, figure_of)
        if drawn:
            place, values = drawn[-1]
            ends.append((min(statistics.fmean(values), top), place, line))
    right = axes.get_xlim()[1]
    placed: list[tuple[float, float]] = []
    for height, place, line in sorted(ends, key=lambda end: end[0]):
        near = [y for x, y in placed if abs(x - place) < right * 0.12]
        at = max([height, *(y + (top - bottom) * _LABEL_GAP for y in near)])
        placed.append((place, at))
        axes.annotate(
            str(line.batch),
            xy=(place, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=line.colour,
            annotation_clip=False,
        )


def _draw_learnt(
    axes: Axes, found: Sequence[BatchSummary], chosen: Verdict, chance: Chance
) -> None:
    """Seeds as dots, means as a line, the noise scale as a band."""
    seeds = [
        (summary.batch, training.result.curve[-1].mean_iou)
        for summary in found
        for training in summary.trainings
        if training.result is not None and training.result.diverged_at is None
    ]
    axes.plot(
        *zip(*seeds, strict=True), linestyle="", marker="o", ms=4, color=COLOURS[0], alpha=0.5
    )
    means = [(each.batch, each.mean_iou.mean) for each in found if each.mean_iou is not None]
    axes.plot(*zip(*means, strict=True), color=COLOURS[0], lw=1.5)
    best = chosen.best
    if best.mean_iou is not None:
        axes.plot([best.batch], [best.mean_iou.mean], marker="*", ms=14, color=COLOURS[1])
    axes.axhline(chance.mean_iou, color=_GREY, lw=1.2, linestyle="--")
    axes.set_ylim(0, max(value for _, value in seeds) * 1.15)
    noise = best.noise
    if noise is not None and noise.images is not None:
        left, right = axes.get_xlim()
        axes.axvspan(
            max(left, noise.low), min(right, noise.high or right), color=_GREY, alpha=0.12, lw=0
        )
        axes.axvline(noise.images, color=_GREY, lw=1.0, linestyle=":")
        axes.set_xlim(left, right)


def _draw_points(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker="o", ms=5, lw=1.5)
    axes.set_ylim(0, max(value for _, value in points) * 1.15)


def _write(figure: Figure, path: Path) -> None:
    suffixes: tuple[tuple[str, dict[str, Any]], ...] = (
        (".svg", {"metadata": {"Date": None}}),
        (".png", {"dpi": _DPI}),
    )
    for suffix, options in suffixes:
        data = io.BytesIO()
        figure.savefig(data, format=suffix[1:], **options)
        write_atomically(path.with_suffix(suffix), data.getvalue())
