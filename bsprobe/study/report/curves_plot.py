"""The plot of a study's curves: validation mean IoU and loss during the training."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsprobe.report.escaping import cleaned
from bsprobe.report.line_ends import LineEnd, label_ends
from bsprobe.report.run.plots import COLOURS, GREY, MARKERS, set_title
from bsprobe.study.records import Chance, CurvePoint, Study, TrainingResult
from bsprobe.study.report import sentences
from bsprobe.study.verdict import BatchSummary

_SIZE_INCHES = (11.0, 6.4)
_LABEL_GAP = 0.06
"""Distance of labels at line ends, as a share of the height of the axes."""
_LABEL_WIDTH = 0.12
"""Distance of line ends from which labels do not overlap, as a share of the width of the axes."""
_LOSS_TOP = 1.5
"""Upper limit of the loss axis, as a multiple of the first loss or the constant's: diverging
losses are cut off."""

_FigureOf = Callable[[CurvePoint], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """The line of one batch."""

    batch: int
    colour: str
    marker: str
    points: tuple[tuple[CurvePoint, ...], ...]
    """For each validation, the points of the seeds that reached it."""


def curves_figure(study: Study, found: Sequence[BatchSummary], chance: Chance) -> Figure:
    """Draw validation mean IoU and loss over updates, images and seconds of training.

    Args:
        study: The study.
        found: Its batches.
        chance: The best constant prediction.
    """
    study = cleaned(study)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    grid = figure.subplots(2, 3, sharex="col", sharey="row")
    lines = _lines(found)
    set_title(figure, f"Validation, {sentences.subject(study.settings)}", study.device.source)
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
        # Labels last: their places depend on the limits of the axes.
        upper.set_ylim(0, _highest(lines) * 1.1)
        lower.set_ylim(0, top)
        for axes, figure_of in ((upper, _iou), (lower, _loss)):
            _label_ends(axes, lines, across, figure_of)
    grid[0][0].set_ylabel("mean IoU")
    grid[1][0].set_ylabel("loss")
    if any(value > top for value in _losses(lines)):
        grid[1][0].set_title(
            "losses above the frame are not drawn", loc="left", fontsize=8, color=GREY
        )
    grid[0][0].set_title(
        "numbers at line ends: effective batch; line: mean over seeds; shaded: their range; "
        f"dashed: best constant prediction ({chance.mean_iou:.3f})",
        loc="left",
        fontsize=8,
        color=GREY,
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
    """The points of all seeds at each validation; a diverged seed is only in the first ones."""
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
    axes.axhline(chance, color=GREY, lw=1.2, linestyle="--")
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
    """The place on the x axis and the figures of the seeds there, without missing figures."""
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
    """Write the batch at the end of each line, or at the frame if the line leaves it."""
    top, right = axes.get_ylim()[1], axes.get_xlim()[1]
    ends = []
    for line in lines:
        drawn = _values(line, across, figure_of)
        if drawn:
            place, values = drawn[-1]
            value = min(statistics.fmean(values), top)
            ends.append(LineEnd(place=place, value=value, name=str(line.batch), colour=line.colour))
    label_ends(axes, ends, gap=_LABEL_GAP, near=right * _LABEL_WIDTH)
