"""The report of an explanation: texts against reviewed copies, pictures by their content."""

import csv
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.explanations import (
    NO_MODULE,
    OUTSIDE,
    ROUNDING,
    MeasuredSide,
    by_kind,
    by_module,
)
from bsprobe.records.runs import Recommendation, Run
from bsprobe.records.trials import ModelFacts, Source
from bsprobe.records.units import GIB, MIB
from bsprobe.report.explain import markdown as explain_markdown
from bsprobe.report.explain import sentences as explain_sentences
from bsprobe.report.explain.plots import kinds_figure, modules_figure, write_kinds_plot
from bsprobe.report.explain.write import write_explanation
from bsprobe.report.run import markdown
from bsprobe.report.run.write import write_report
from tests.support import golden
from tests.support.explanations import (
    EXPLANATION,
    GPU,
    MEASURED,
    MEASURED_REPORT,
    REPORT,
)
from tests.support.golden import written_twice

check = partial(golden.check, __file__)
PLOTS = ("step-by-kind", "step-by-module")
MEASURED_PLOTS = ("measured-step-by-kind", "measured-step-by-module")


def test_the_report_and_the_terminal_output_are_as_agreed() -> None:
    check("explain.md", explain_markdown.render(REPORT, plots=PLOTS))
    check("explain.txt", explain_markdown.render_terminal(REPORT), columns=80)


def test_what_was_measured_stands_beside_the_prediction_as_agreed() -> None:
    text = explain_markdown.render(MEASURED_REPORT, plots=PLOTS, measured=MEASURED_PLOTS)
    check("explain-measured.md", text)
    check("explain-measured.txt", explain_markdown.render_terminal(MEASURED_REPORT), columns=80)


def test_each_row_has_both_figures_and_both_columns_add_up_to_their_peaks() -> None:
    for found in (by_kind(MEASURED, EXPLANATION), by_module(MEASURED, 2, EXPLANATION)):
        top = [row for row in found if row.depth == 0]
        assert sum(row.size_bytes for row in top) == MEASURED.peak_bytes
        assert sum(row.predicted_bytes for row in top) == EXPLANATION.peak_bytes
        assert sum(row.per_image_bytes or 0 for row in top) == EXPLANATION.per_image_bytes


def test_a_batch_that_does_not_run_on_the_gpu_is_said_to_have_no_measurement() -> None:
    side = MeasuredSide(device=GPU, failure="OutOfMemoryError: CUDA out of memory (step 1)")
    report = replace(REPORT, measured=side)
    for text in (
        explain_markdown.render_terminal(report).replace("\n", " "),
        explain_markdown.render(report, plots=PLOTS),
    ):
        assert "Batch 2 was not measured on NVIDIA Invented 12: OutOfMemoryError" in text
        assert "All figures below are predicted." in text
        assert "recorded-snapshot" not in text


def test_a_card_that_nobody_named_is_called_assumed() -> None:
    device = replace(REPORT.device, is_assumed=True, notes=("A note.",))
    report = replace(REPORT, device=device)
    said = "> No GPU was named: Invented 12 is assumed; `--gpu NAME` for another.\n\n> A note.\n"
    assert said in explain_markdown.render(report, plots=PLOTS)
    assert "(no GPU was named" in explain_markdown.render_terminal(report).replace("\n", " ")


def test_an_explanation_says_what_there_is_to_know_of_the_network() -> None:
    model = ModelFacts(
        parameters=7,
        groups=(("all", 1.0),),
        parameters_without_gradient=2,
        first_without_gradient="layer1.weight",
        assumptions=(Assumption.NOT_COMPILED,),
    )
    found = replace(REPORT, explanation=replace(EXPLANATION, model=model))
    for text in (
        explain_markdown.render(found, plots=PLOTS),
        explain_markdown.render_terminal(found),
    ):
        assert text.count("Predicted as if not compiled") == 1
        assert text.count("layer1.weight") == 1


def test_small_rows_are_shown_as_one_so_that_all_still_adds_up() -> None:
    modules = by_module(EXPLANATION, 2)
    large = replace(EXPLANATION, peak_reserved_bytes=60_000 * MIB)
    shown = explain_sentences.rows_shown(modules, large)
    assert [(row.name, row.depth) for row in shown] == [
        ("layer2", 0),
        ("layer2.0", 1),
        ("layer2.1", 1),
        ("layer1", 0),
        ("layer1.0", 1),
        ("layer1", 1),
        (NO_MODULE, 0),
        (ROUNDING, 0),
        (OUTSIDE, 0),
    ]
    kinds = explain_sentences.rows_shown(by_kind(EXPLANATION), large)
    assert [row.name for row in kinds] == ["saved activations", "3 smaller", ROUNDING, OUTSIDE]
    for all_, few in ((modules, shown), (by_kind(EXPLANATION), kinds)):
        assert sum(row.size_bytes for row in few if not row.depth) == sum(
            row.size_bytes for row in all_ if not row.depth
        )


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def sizes(file: Path) -> dict[str, int]:
    """The sum of a table's bytes by source."""
    found: dict[str, int] = {}
    for row in rows(file):
        found[row["source"]] = found.get(row["source"], 0) + int(row["size_bytes"])
    return found


FILES = {"explain.md", "memory.csv", "remedies.csv", "timeline.csv"}
PICTURES = {f"{name}.{suffix}" for name in PLOTS for suffix in ("png", "svg")}


def test_the_tables_have_every_byte(tmp_path: Path) -> None:
    write_explanation(REPORT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | PICTURES
    assert sizes(tmp_path / "memory.csv") == {"predicted": EXPLANATION.peak_bytes}
    assert [(row["command"], row["largest"]) for row in rows(tmp_path / "remedies.csv")] == [
        ("--checkpointing on", "7"),
        ("--precision amp-fp16", "5"),
        ("--target-batch N", "2"),
        ("--optimizer adamw", ""),
    ]
    saved = [row["saved_activations_bytes"] for row in rows(tmp_path / "timeline.csv")]
    assert saved == ["0", str(4096 * MIB), str(7168 * MIB), "0"]


def test_measured_and_predicted_tables_and_pictures_are_told_apart(tmp_path: Path) -> None:
    write_explanation(MEASURED_REPORT, tmp_path)
    measured = {f"measured-{name}" for name in (*PICTURES, "timeline.csv")}
    assert {path.name for path in tmp_path.iterdir()} == FILES | PICTURES | measured
    assert sizes(tmp_path / "memory.csv") == {
        "measured": MEASURED.peak_bytes,
        "predicted": EXPLANATION.peak_bytes,
    }


def test_the_pictures_show_the_phases_the_capacity_and_the_next_batch() -> None:
    for figure, names in (
        (kinds_figure(EXPLANATION), ["parameters", "saved activations"]),
        (modules_figure(EXPLANATION), ["layer2", "other modules"]),
    ):
        (axes,) = figure.axes
        _, labels = axes.get_legend_handles_labels()
        around = ["outside the allocator", *names, "reserved, not in use", "in use at batch 3"]
        assert labels == around
        assert [text.get_text() for text in axes.texts] == ["forward", "backward", "optimizer"]
        assert any(np.array_equal(line.get_ydata(), [12.0, 12.0]) for line in axes.lines)
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > 12.25


def test_the_same_explanation_gives_the_same_pictures(tmp_path: Path) -> None:
    files = written_twice(lambda folder: write_kinds_plot(EXPLANATION, folder / "a"), tmp_path)
    assert list(files) == ["a.png", "a.svg"]
    with Image.open(io.BytesIO(files["a.png"])) as picture:
        assert picture.size == (1350, 720)


def test_the_report_of_a_run_shows_the_step_where_it_was_drawn(run: Run, tmp_path: Path) -> None:
    write_report(run, tmp_path)
    link = f"]({markdown.EXPLAINED}.png)"
    assert link not in (tmp_path / "report.md").read_text(encoding="utf-8")
    write_kinds_plot(EXPLANATION, tmp_path / markdown.EXPLAINED)
    write_report(run, tmp_path)
    assert link in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_of_a_run_on_a_cpu_says_nothing_of_it(run: Run) -> None:
    on_cpu = replace(run, device=replace(run.device, kind=DeviceKind.CPU))
    assert "bsprobe explain" not in markdown.render(on_cpu, plots=(), snippet=None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("NVIDIA GeForce RTX 4090", "--gpu 'RTX 4090'"),
        ("NVIDIA Invented 24", "--gpu custom --capacity 25769803776 --compute-capability 9.0"),
    ],
)
def test_the_command_in_a_predicted_runs_report_names_the_card(
    run: Run, item: Recommendation, name: str, options: str
) -> None:
    card = replace(run.device, source=Source.PREDICTED, name=name, limit_bytes=12 * GIB)
    assert explain_sentences.command(replace(run, device=card), item) == (
        f"bsprobe explain {options} --model deeplabv2-resnet101 --resolution 512x1024 "
        f"--memory-limit {12 * GIB} --batch 5"
    )


@pytest.mark.parametrize(
    ("named", "option"), [(None, ""), ("cuda", "--device cuda "), ("cuda:1", "--device cuda:1 ")]
)
def test_the_command_in_a_measured_runs_report_records_on_the_same_gpu(
    run: Run, item: Recommendation, named: str | None, option: str
) -> None:
    asked = replace(run.settings.device, device=named)
    settings = replace(run.settings, device=asked)
    card = replace(run.device, limit_bytes=None)
    recorded = replace(run, settings=settings, device=card)
    assert explain_sentences.command(recorded, item) == (
        f"bsprobe explain {option}--model deeplabv2-resnet101 --resolution 512x1024 --batch 5"
    )
