"""A fleet as text, files and a picture.

After an intended change: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from bsprobe.analysis.fleet import Fleet, make_fleet
from bsprobe.records.runs import Boundary, Run, StopReason
from bsprobe.records.units import GIB
from bsprobe.report.compare.fleet import render_markdown, render_text, write_fleet
from bsprobe.report.compare.fleet_plot import fleet_figure
from bsprobe.report.run.plots import COLOURS
from bsprobe.storage.codec import from_json
from tests.support import golden
from tests.support.golden import written_twice

check = partial(golden.check, __file__)


@pytest.fixture(scope="module")
def fleet(run: Run, predicted: Run) -> Fleet:
    """A measured card, a predicted one with a long name, and the first again without AMP."""
    long = named(predicted, "NVIDIA RTX Invented 6000 Workstation Edition", 40)
    limited = replace(run.device, limit_bytes=22 * GIB, capacity_bytes=22 * GIB)
    without_amp = without(replace(run, device=limited), "amp-fp16")
    return make_fleet([("runs/one", run), ("runs/two/run.json", long), ("runs/three", without_amp)])


def without(run: Run, precision: str) -> Run:
    """The run without the variants of one precision."""
    kept = tuple(result for result in run.results if result.variant.precision != precision)
    variants = tuple(result.variant for result in kept)
    return replace(
        run,
        settings=replace(run.settings, variants=variants),
        trials=tuple(trial for trial in run.trials if trial.spec.variant in variants),
        results=kept,
    )


def named(run: Run, name: str, capacity_gib: int) -> Run:
    device = replace(run.device, name=name, capacity_bytes=capacity_gib * GIB)
    return replace(run, device=device)


def test_the_text_and_the_markdown_are_as_agreed(fleet: Fleet) -> None:
    check("fleet.txt", render_text(fleet), columns=80)
    check("fleet.md", render_markdown(fleet))


def test_the_files_hold_everything_and_are_the_same_every_time(
    fleet: Fleet, tmp_path: Path
) -> None:
    files = written_twice(lambda folder: write_fleet(fleet, folder), tmp_path)
    assert list(files) == ["fleet.csv", "fleet.json", "fleet.md", "fleet.png", "fleet.svg"]
    assert from_json(Fleet, json.loads(files["fleet.json"])) == fleet


def test_the_csv_has_a_row_a_variant_and_machine_and_says_what_was_not_probed(
    fleet: Fleet, tmp_path: Path
) -> None:
    write_fleet(fleet, tmp_path)
    with (tmp_path / "fleet.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    absent = [row for row in rows if row["probed"] == "False"]
    assert [(row["machine"], row["precision"], row["largest"]) for row in absent] == [
        ("Invented 24, 22.0 GiB", "amp-fp16", "")
    ] * 2
    one = next(row for row in rows if row["machine"] == "Invented 24")
    assert (one["source"], one["largest"], one["run"]) == ("measured", "5", "runs/one")


def bars(axes: Axes) -> list[tuple[int, float, bool, str]]:
    """Machine, height, fill and colour of each bar except the legend's."""
    return [
        (
            round(bar.get_x() + bar.get_width() / 2),
            bar.get_height(),
            bar.get_facecolor() == bar.get_edgecolor(),
            to_hex(bar.get_edgecolor()).upper(),
        )
        for bar in axes.patches
        if isinstance(bar, Rectangle) and bar.get_height() > 0
    ]


def test_the_picture_has_a_bar_a_variant_and_machine_hollow_where_predicted(fleet: Fleet) -> None:
    batches, rates = fleet_figure(fleet).axes
    assert (batches.get_ylim()[0], rates.get_ylim()[0]) == (0, 0)
    found = [bar[:3] for bar in bars(batches) if bar[3] == COLOURS[0]]
    assert found == [(0, 5, True), (1, 5, True), (2, 5, False)]
    # amp-fp16 was not probed on the second machine, and predictions have no times.
    assert [bar[0] for bar in bars(batches) if bar[3] == COLOURS[2]] == [1, 2]
    assert {bar[0] for bar in bars(rates)} == {0, 1}
    assert [text.get_text() for text in batches.texts][:3] == ["5", "5", "5"]


def test_no_line_joins_machines(fleet: Fleet) -> None:
    assert [axes.lines[:] for axes in fleet_figure(fleet).axes] == [[], []]


def test_a_boundary_that_is_not_exact_or_not_there_says_so(run: Run) -> None:
    first, second, third, *_ = run.results
    changed = (
        replace(first, boundary=Boundary(stop=StopReason.MAX_BATCH, largest=5)),
        replace(second, boundary=Boundary(stop=StopReason.TIME), recommendation=None),
        replace(third, boundary=Boundary(stop=StopReason.FAILED), recommendation=None),
    )
    text = render_text(make_fleet([("a", replace(run, results=changed))]))
    rows = [line.split() for line in text.splitlines() if " measured " in line]
    assert [row[row.index("measured") + 1] for row in rows] == [">=5", "unknown", "failed"]
