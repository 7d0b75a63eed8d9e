"""The pictures: what is drawn, and that it is drawn the same every time."""

import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from bsprobe.records.runs import Run
from bsprobe.records.trials import Trial
from bsprobe.records.units import GIB
from bsprobe.report.run.plots import memory_figure, throughput_figure, write_plots


def test_plots_are_written_as_png_and_svg_that_open(run: Run, tmp_path: Path) -> None:
    assert write_plots(run, tmp_path) == ["memory", "throughput"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["memory.png", "memory.svg", "throughput.png", "throughput.svg"]
    for name in ("memory.png", "throughput.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (1200, 675)


def test_the_same_run_gives_the_same_svg_byte_for_byte(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_plots(run, tmp_path / "a")
    write_plots(run, tmp_path / "b")
    for name in ("memory.svg", "throughput.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_memory_shows_a_line_a_variant_that_fits_and_a_cross_at_each_failure(run: Run) -> None:
    figure = memory_figure(run)
    assert figure is not None
    (axes,) = figure.axes
    marked = {marker: _batches(axes, marker) for marker in ("o", "s", "^", "D", "x")}
    assert marked == {
        "o": [[1, 2, 4, 5]],
        "s": [[1, 2, 4, 5]],
        "^": [[1, 2, 4, 8, 10]],
        "D": [[]],
        "x": [[8, 6], [8, 6], [16, 11], [1]],
    }
    assert axes.get_ylim()[0] == 0
    assert any(np.array_equal(line.get_ydata(), [23.0, 23.0]) for line in axes.lines)


def _batches(axes: Axes, marker: str) -> list[list[int]]:
    """The batches at which each line with a marker has points."""
    return [
        [int(x) for x in np.asarray(line.get_xdata())]
        for line in axes.lines
        if line.get_marker() == marker
    ]


def test_a_prediction_is_drawn_dashed_and_has_no_throughput(predicted: Run) -> None:
    figure = memory_figure(predicted)
    assert figure is not None
    styles = [line.get_linestyle() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert styles == ["--"]
    assert throughput_figure(predicted) is None


def test_a_run_in_which_nothing_fits_has_no_pictures(run: Run, tmp_path: Path) -> None:
    nothing = dataclasses.replace(
        run, trials=tuple(trial for trial in run.trials if trial.measurement is None)
    )
    assert write_plots(nothing, tmp_path) == []


def test_writing_plots_leaves_matplotlibs_settings_alone(run: Run, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write_plots(run, tmp_path)
    assert dict(mpl.rcParams) == before


def test_the_capacity_is_where_memory_ends(run: Run) -> None:
    for trial in run.trials:
        if trial.measurement is not None:
            assert trial.measurement.peak_bytes <= 23 * GIB


def test_a_line_that_a_later_one_covers_is_wide_enough_to_be_seen(run: Run) -> None:
    first, second, *_ = run.results

    def as_of_first(trial: Trial) -> Trial:
        return dataclasses.replace(
            trial, spec=dataclasses.replace(trial.spec, variant=second.variant)
        )

    own = [trial for trial in run.trials if trial.spec.variant == first.variant]
    twins = dataclasses.replace(run, results=(first, second), trials=(*own, *map(as_of_first, own)))
    figure = memory_figure(twins)
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() in ("-", "--")]
    widths = [line.get_linewidth() for line in lines if len(np.atleast_1d(line.get_xdata())) > 2]
    assert widths == [4.5, 1.6]
