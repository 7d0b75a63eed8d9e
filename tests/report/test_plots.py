"""The content of the plots, and that their files are reproducible."""

import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from bsprobe.records.runs import Run
from bsprobe.records.variants import labels
from bsprobe.report.run.plots import memory_figure, throughput_figure, write_plots
from tests.support.golden import written_twice


def test_plots_are_png_and_svg_that_open_and_are_the_same_every_time(
    run: Run, tmp_path: Path
) -> None:
    files = written_twice(lambda folder: write_plots(run, folder), tmp_path)
    assert list(files) == ["memory.png", "memory.svg", "throughput.png", "throughput.svg"]
    sizes = {"memory.png": (1200, 840), "throughput.png": (1200, 675)}
    for name, size in sizes.items():
        with Image.open(io.BytesIO(files[name])) as picture:
            assert picture.size == size


def marked(axes: Axes) -> dict[str, list[list[int]]]:
    """The batches of the marks, by kind of mark, a list for each line."""
    found: dict[str, list[list[int]]] = {}
    for line in axes.lines:
        if str(line.get_marker()) != "None":
            batches = [int(batch) for batch in np.asarray(line.get_xdata())]
            found.setdefault(str(line.get_marker()), []).append(batches)
    return found


def test_memory_shows_a_line_a_variant_that_fits_and_no_mark_without_a_peak(run: Run) -> None:
    figure = memory_figure(run)
    assert figure is not None
    _, axes = figure.axes
    assert marked(axes) == {
        "o": [[1, 2, 4, 5]],
        "s": [[1, 2, 4, 5]],
        "^": [[1, 2, 4, 8, 9, 10]],
        "D": [[]],
    }
    assert axes.get_ylim()[0] == 0
    assert any(np.array_equal(line.get_ydata(), [23.0, 23.0]) for line in axes.lines)


def test_above_the_memory_each_variant_has_a_row_with_a_cross_at_each_failure(run: Run) -> None:
    figure = memory_figure(run)
    assert figure is not None
    tried, axes = figure.axes
    assert marked(tried)["x"] == [[8, 6], [8, 6], [16, 11], [1]]
    assert {mark: found for mark, found in marked(tried).items() if mark != "x"} == marked(axes)
    assert tried.get_xlim() == axes.get_xlim()
    names = labels(run.settings.variants)
    assert [text.get_text() for text in tried.get_yticklabels()] == [
        names[result.variant] for result in run.results
    ]
    assert len(axes.texts) == 0  # names must not cover the lines


def test_a_prediction_is_drawn_dashed_and_has_no_throughput(predicted: Run) -> None:
    figure = memory_figure(predicted)
    assert figure is not None
    styles = [line.get_linestyle() for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert styles == ["--"]
    assert throughput_figure(predicted) is None


def test_a_run_in_which_nothing_fits_has_no_pictures(run: Run, tmp_path: Path) -> None:
    failed = tuple(trial for trial in run.trials if trial.measurement is None)
    assert write_plots(replace(run, trials=failed), tmp_path) == []


def test_writing_plots_leaves_matplotlibs_settings_alone(run: Run, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    assert write_plots(run, tmp_path) == ["memory", "throughput"]
    assert dict(mpl.rcParams) == before


def test_a_line_that_a_later_one_covers_is_wide_enough_to_be_seen(run: Run) -> None:
    first, second, *_ = run.results
    own = [trial for trial in run.trials if trial.spec.variant == first.variant]
    others = [replace(one, spec=replace(one.spec, variant=second.variant)) for one in own]
    twins = replace(run, results=(first, second), trials=(*own, *others))
    figure = memory_figure(twins)
    assert figure is not None
    lines = [line for line in figure.axes[1].lines if line.get_linestyle() in ("-", "--")]
    widths = [line.get_linewidth() for line in lines if len(np.atleast_1d(line.get_xdata())) > 2]
    assert widths == [4.5, 1.6]
