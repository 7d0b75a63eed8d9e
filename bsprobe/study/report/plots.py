"""The plots of a study: curves, batches, data loader."""

from pathlib import Path

import matplotlib as mpl

from bsprobe.report.run.plots import STYLE, write_figure
from bsprobe.study.records import Study
from bsprobe.study.report import sentences
from bsprobe.study.report.batches_plot import batches_figure
from bsprobe.study.report.curves_plot import curves_figure
from bsprobe.study.report.loader_plot import loader_figure


def write_study_plots(study: Study, folder: Path) -> list[str]:
    """Write the plots that have data, as SVG and PNG, and return their names without suffix."""
    found, chosen = sentences.chosen_of(study)
    chance = next((t.result.chance for t in study.trainings if t.result is not None), None)
    figures = []
    with mpl.rc_context(STYLE):
        if chance is not None:
            figures.append(("curves", curves_figure(study, found, chance)))
        if chosen is not None and chance is not None:
            figures.append(("batches", batches_figure(study, found, chosen, chance)))
        if study.loading is not None:
            figures.append(("loader", loader_figure(study)))
        for name, figure in figures:
            write_figure(figure, folder / name)
    return [name for name, _ in figures]
