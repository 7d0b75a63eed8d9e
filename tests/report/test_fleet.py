"""A fleet in text, in files, in a picture.

After a change that is meant: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bsprobe.analysis.fleet import Fleet, make_fleet
from bsprobe.records.runs import Boundary, Run, StopReason
from bsprobe.records.trials import Source
from bsprobe.records.units import GIB
from bsprobe.report.compare.fleet import render_markdown, render_text, write_fleet
from bsprobe.report.compare.fleet_plot import fleet_figure
from bsprobe.report.run.plots import COLOURS
from bsprobe.storage.codec import from_json
from tests.support import golden

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    golden.check(GOLDEN / name, text)


def without_times(run: Run) -> Run:
    """Recommendations as predicted runs have them: their trials know no images/s."""
    results = []
    for result in run.results:
        item = result.recommendation
        if item is not None and item.trial is not None and item.trial.measurement is not None:
            measured = dataclasses.replace(
                item.trial.measurement, step_seconds=(), images_per_second=None
            )
            trial = dataclasses.replace(item.trial, source=Source.PREDICTED, measurement=measured)
            item = dataclasses.replace(item, trial=trial)
        results.append(dataclasses.replace(result, recommendation=item))
    return dataclasses.replace(run, results=tuple(results))


@pytest.fixture(scope="module")
def fleet(run: Run, predicted: Run) -> Fleet:
    """A measured card, a predicted one with a long name, and the first once more, without AMP."""
    long = dataclasses.replace(
        predicted.device,
        name="NVIDIA RTX Invented 6000 Workstation Edition",
        capacity_bytes=40 * GIB,
    )
    without_amp = without(
        dataclasses.replace(
            run,
            device=dataclasses.replace(run.device, limit_bytes=22 * GIB, capacity_bytes=22 * GIB),
        ),
        "amp-fp16",
    )
    return make_fleet(
        [
            ("runs/one", run),
            ("runs/two/run.json", without_times(dataclasses.replace(predicted, device=long))),
            ("runs/three", without_amp),
        ]
    )


def without(run: Run, precision: str) -> Run:
    """The run as if one precision had not been asked for."""
    kept = tuple(result for result in run.results if result.variant.precision != precision)
    variants = tuple(result.variant for result in kept)
    return dataclasses.replace(
        run,
        settings=dataclasses.replace(run.settings, variants=variants),
        trials=tuple(trial for trial in run.trials if trial.spec.variant in variants),
        results=kept,
    )


def named(run: Run, name: str, capacity_gib: int) -> Run:
    device = dataclasses.replace(run.device, name=name, capacity_bytes=capacity_gib * GIB)
    return dataclasses.replace(run, device=device)


def test_the_text_is_as_agreed(fleet: Fleet) -> None:
    check("fleet.txt", render_text(fleet))


def test_the_text_fits_80_columns(fleet: Fleet) -> None:
    assert [line for line in render_text(fleet).splitlines() if len(line) > 80] == []


def test_the_markdown_is_as_agreed(fleet: Fleet) -> None:
    check("fleet.md", render_markdown(fleet))


def test_every_row_says_whether_it_is_measured(fleet: Fleet) -> None:
    rows = [line for line in render_markdown(fleet).splitlines() if line.startswith("| fp32 /")]
    assert [row.split(" | ")[2] for row in rows] == ["measured", "measured", "predicted"] * 2


def test_the_files_hold_everything_and_are_the_same_every_time(
    fleet: Fleet, tmp_path: Path
) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        folder.mkdir()
        write_fleet(fleet, folder)
    names = ["fleet.csv", "fleet.json", "fleet.md", "fleet.png", "fleet.svg"]
    assert sorted(path.name for path in once.iterdir()) == names
    assert [(once / n).read_bytes() for n in names] == [(again / n).read_bytes() for n in names]
    assert from_json(Fleet, json.loads((once / "fleet.json").read_text())) == fleet


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


def test_the_picture_has_hollow_marks_for_predictions_and_no_line_over_a_gap(fleet: Fleet) -> None:
    batches, rates = fleet_figure(fleet).axes
    assert (batches.get_ylim()[0], rates.get_ylim()[0]) == (0, 0)
    marks = [line for line in batches.lines if line.get_marker() == "o"]
    found = [(float(np.asarray(m.get_ydata())[0]), m.get_markerfacecolor()) for m in marks]
    assert found == [(5, "#0072B2"), (5, "#0072B2"), (5, "white")]
    stretches = [line.get_linestyle() for line in batches.lines if line.get_marker() == "None"]
    # Two of fp32 / batch, two of fp32 / group; of amp-fp16 only from the second to the third.
    assert stretches == ["-", "--"] * 2 + ["--"] * 2
    # Predictions have no times.
    assert [line.get_linestyle() for line in rates.lines if line.get_marker() == "None"] == [
        "-",
        "-",
    ]
    labels = [text.get_text() for text in batches.texts]
    assert "fp32 / batch: 5" in labels


def test_no_line_passes_over_a_machine_of_which_nothing_is_known(run: Run, predicted: Run) -> None:
    fleet = make_fleet(
        [
            ("a", named(run, "A", 23)),
            ("b", without(named(run, "B", 24), "amp-fp16")),
            ("c", without_times(named(predicted, "C", 25))),
            ("d", without_times(named(predicted, "D", 26))),
        ]
    )
    batches, _ = fleet_figure(fleet).axes
    stretches = {
        colour: [
            (round(float(np.asarray(line.get_xdata())[0])), line.get_linestyle())
            for line in batches.lines
            if line.get_marker() == "None" and line.get_color() == colour
        ]
        for colour in COLOURS[:3]
    }
    fp32 = [(0, "-"), (1, "--"), (2, "--")]
    assert stretches == {COLOURS[0]: fp32, COLOURS[1]: fp32, COLOURS[2]: [(2, "--")]}


def test_a_boundary_that_is_not_exact_or_not_there_says_so(run: Run) -> None:
    first, second, third, *_ = run.results
    open_ended = Boundary(stop=StopReason.MAX_BATCH, largest=5)
    timed_out = Boundary(stop=StopReason.TIME)
    failed = Boundary(stop=StopReason.FAILED, detail="a bug")
    changed = dataclasses.replace(
        run,
        results=(
            dataclasses.replace(first, boundary=open_ended),
            dataclasses.replace(second, boundary=timed_out, recommendation=None),
            dataclasses.replace(third, boundary=failed, recommendation=None),
        ),
    )
    text = render_text(make_fleet([("a", changed)]))
    rows = [line.split() for line in text.splitlines() if " measured " in line]
    assert [row[row.index("measured") + 1] for row in rows] == [">=5", "unknown", "failed"]
