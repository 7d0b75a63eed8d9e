"""The plot of a study's batches: mean IoU, rate and peak memory."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bsprobe.records.units import MIB
from bsprobe.report.escaping import cleaned
from bsprobe.report.run.plots import COLOURS, GREY, set_title
from bsprobe.study.records import Chance, Study
from bsprobe.study.report import sentences
from bsprobe.study.verdict import BatchSummary, Verdict

_SIZE_INCHES = (11.0, 3.8)


def batches_figure(
    study: Study, found: Sequence[BatchSummary], chosen: Verdict, chance: Chance
) -> Figure:
    """Draw mean IoU, rate and peak memory over the effective batch, in three panels.

    Args:
        study: The study.
        found: Its batches.
        chosen: The recommended batch.
        chance: The best constant prediction.
    """
    study = cleaned(study)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    learnt, fast, memory = figure.subplots(1, 3)
    set_title(
        figure,
        f"Effective batches after {study.settings.images_seen} images, "
        f"{sentences.subject(study.settings)}",
        study.device.source,
        below="\nstar: recommended; dots: seeds; dashed: best constant prediction; dotted and "
        "shaded: gradient noise scale and its interval",
        points=9,
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


def _draw_learnt(
    axes: Axes, found: Sequence[BatchSummary], chosen: Verdict, chance: Chance
) -> None:
    """Draw seeds as dots, means as a line, the interval of the noise scale as a band."""
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
    axes.axhline(chance.mean_iou, color=GREY, lw=1.2, linestyle="--")
    axes.set_ylim(0, max(value for _, value in seeds) * 1.15)
    noise = best.noise
    if noise is not None and noise.images is not None:
        left, right = axes.get_xlim()
        axes.axvspan(
            max(left, noise.low), min(right, noise.high or right), color=GREY, alpha=0.12, lw=0
        )
        axes.axvline(noise.images, color=GREY, lw=1.0, linestyle=":")
        axes.set_xlim(left, right)


def _draw_points(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker="o", ms=5, lw=1.5)
    axes.set_ylim(0, max(value for _, value in points) * 1.15)
