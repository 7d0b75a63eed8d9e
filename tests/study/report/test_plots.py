"""The plots of a study: their contents, and that they are reproducible."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from bsprobe.study.records import Chance, Study
from bsprobe.study.report import sentences
from bsprobe.study.report.batches_plot import batches_figure
from bsprobe.study.report.curves_plot import curves_figure
from bsprobe.study.report.loader_plot import loader_figure
from bsprobe.study.report.plots import write_study_plots
from bsprobe.study.report.write import write_study_report
from tests.support.golden import written_twice


def chance_of(study: Study) -> Chance:
    return next(t.result.chance for t in study.trainings if t.result is not None)


def ends(axes: Axes) -> list[str]:
    """The labels at line ends, the lowest first."""
    notes = sorted(axes.texts, key=lambda note: note.xy[1])  # type: ignore[attr-defined] # annotations
    return [note.get_text() for note in notes]


def marked(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """The points of the lines that have markers."""
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "", None)]
    return [tuple(np.asarray(line.get_data()).round(3).tolist()) for line in lines]


def test_curves_are_the_mean_over_seeds_against_updates_images_and_seconds(study: Study) -> None:
    found, _ = sentences.chosen_of(study)

    figure = curves_figure(study, found, chance_of(study))

    axes = figure.axes
    labels = ["updates", "training images seen", "seconds of training on cuda"]
    assert [one.get_xlabel() for one in axes[3:]] == labels
    iou = [0.01, 0.096, 0.182, 0.269, 0.355]
    updates, means = marked(axes[0])[0]
    assert updates == [0, 20, 40, 60, 80]
    assert means == pytest.approx(iou, abs=2e-3)
    assert marked(axes[1])[0][0] == [0, 40, 80, 120, 160]
    assert marked(axes[4])[1][1] == pytest.approx([3.05, 2.55, 2.05, 1.55, 1.05])
    assert ends(axes[0]) == ["8", "2", "4"]
    assert [one.get_ylim()[0] for one in axes] == [0] * 6
    dashed = [line for line in axes[0].lines if line.get_linestyle() == "--"]
    assert [set(np.asarray(line.get_ydata()).tolist()) for line in dashed] == [{0.017}]


def test_batches_show_every_seed_and_star_the_recommended(study: Study) -> None:
    found, chosen = sentences.chosen_of(study)
    assert chosen is not None

    learnt, fast, memory = batches_figure(study, found, chosen, chance_of(study)).axes

    dots, star = marked(learnt)
    assert dots[0] == [2.0, 2.0, 4.0, 4.0, 8.0, 8.0]
    assert star == ([4.0], [0.415])
    assert marked(fast) == [([2.0, 4.0, 8.0], [22.0, 24.0, 28.0])]
    assert marked(memory) == [([2.0, 4.0, 8.0], [1536.0, 2048.0, 3072.0])]


def test_the_loader_stands_beside_the_step(study: Study) -> None:
    (axes,) = loader_figure(study).axes

    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:4] == [
        "0 workers, pinned",
        "1 worker, prefetch 2, pinned",
        "★ 2 workers, prefetch 2, pinned",
        "4 workers, prefetch 2, pinned",
    ]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [set(np.asarray(line.get_xdata()).tolist()) for line in dashed] == [{100.0}]


@pytest.mark.parametrize("name", [pytest.param("study", marks=pytest.mark.nightly), "troubled"])
def test_plots_are_the_same_every_time_and_open(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = request.getfixturevalue(name)
    assert write_study_plots(made, tmp_path) == ["curves", "batches", "loader"]
    files = written_twice(lambda folder: write_study_plots(made, folder), tmp_path)
    assert list(files) == [
        f"{plot}.{suffix}" for plot in ("batches", "curves", "loader") for suffix in ("png", "svg")
    ]
    for plot in ("curves", "batches", "loader"):
        with Image.open(io.BytesIO(files[f"{plot}.png"])) as picture:
            assert picture.size[0] >= 1200


def test_a_study_without_results_has_a_report_and_no_pictures(
    hopeless: Study, tmp_path: Path
) -> None:
    write_study_report(hopeless, tmp_path)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["curves.csv", "report.md", "trainings.csv"]
