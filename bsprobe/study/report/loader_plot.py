"""The plot of a study's data loader."""

from matplotlib.figure import Figure

from bsprobe.report.escaping import cleaned
from bsprobe.report.run.plots import COLOURS, GREY, set_title
from bsprobe.study.records import Study
from bsprobe.study.report import sentences
from bsprobe.study.verdict import recommended_loading

_SIZE_INCHES = (8.0, 3.2)


def loader_figure(study: Study) -> Figure:
    """Draw the rates of each setting of the data loader and of the step."""
    study = cleaned(study)
    loading = study.loading
    assert loading is not None  # noqa: S101 - the caller's condition
    best = recommended_loading(loading)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(loading.rates))
    alone = [rate.alone_images_per_second for rate in loading.rates]
    fed = [rate.fed_images_per_second for rate in loading.rates]
    step = loading.step_images_per_second
    axes.plot(alone, rows, linestyle="", marker="s", color=COLOURS[1], ms=6)
    axes.plot(fed, rows, linestyle="", marker="o", color=COLOURS[0], ms=7)
    axes.axvline(step, color=GREY, lw=1.2, linestyle="--")
    names = [
        ("★ " if rate == best else "") + sentences.setting_words(rate) for rate in loading.rates
    ]
    axes.set_yticks(list(rows), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, max([*alone, *fed, step]) * 1.1)
    axes.set_xlabel("images / s")
    set_title(figure, f"Data loader at batch {loading.effective_batch}", study.device.source)
    axes.set_title(
        "circle: training; square: loader alone; dashed: training on images in memory; "
        "★: recommended",
        loc="left",
        fontsize=8,
        color=GREY,
    )
    return figure
