"""Every text that a person reads, against a copy that a person has read.

After a change that is meant: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import Run
from bsprobe.records.variants import labels
from bsprobe.report.run import markdown, tables, terminal
from bsprobe.report.run.plan import render as render_plan
from bsprobe.report.snippet import snippet
from tests.support import golden

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    golden.check(GOLDEN / name, text)


def starred_snippet(run: Run) -> str:
    item = next(r.recommendation for r in run.results if r.recommendation is not None)
    return snippet.render(run, item)


def test_the_terminal_output_is_as_agreed(run: Run) -> None:
    check("terminal.txt", terminal.render(run))


def test_the_terminal_output_fits_80_columns(run: Run) -> None:
    assert [line for line in terminal.render(run).splitlines() if len(line) > 80] == []


def test_the_report_is_as_agreed(run: Run) -> None:
    text = markdown.render(run, plots=("memory", "throughput"), snippet=starred_snippet(run))
    check("report.md", text)


def test_the_trials_as_csv_are_as_agreed(run: Run) -> None:
    check("trials.csv", tables.to_csv(tables.trials_table(run)).decode())


def test_the_recommendation_as_csv_is_as_agreed(run: Run) -> None:
    check("recommendation.csv", tables.to_csv(tables.recommendation_table(run)).decode())


def test_the_snippet_is_as_agreed(run: Run) -> None:
    check("snippet.py.txt", starred_snippet(run))


def test_the_plan_is_as_agreed(run: Run) -> None:
    check("plan.txt", render_plan(run.settings, None))


def test_the_plan_of_a_prediction_says_that_nothing_runs(run: Run) -> None:
    device = replace(run.settings.device, gpu=find_gpu("RTX 3090"), device=None)
    said = render_plan(replace(run.settings, device=device), None).splitlines()
    assert said[-2:] == [
        "Here a trial is predicted from a trace; nothing runs on a GPU.",
        "Results go to reports/DEVICE-MODEL-SIZE/.",
    ]


@pytest.mark.parametrize("name", ["terminal", "markdown"])
def test_a_prediction_says_so_and_never_says_measured(predicted: Run, name: str) -> None:
    text = (
        terminal.render(predicted)
        if name == "terminal"
        else markdown.render(predicted, plots=(), snippet=None)
    )
    assert "predicted" in text
    assert "measured" not in text.replace("batches measured", "")


def test_all_parts_of_a_report_speak_of_the_same_setting(predicted: Run) -> None:
    best = predicted.best
    assert best is not None
    name = labels(predicted.settings.variants)[best.variant]
    text = markdown.render(predicted, plots=(), snippet=snippet.render(predicted, best))
    assert f" as {name} with micro-batch {best.plan.micro_batch} " in text
    assert f"What fills the memory of {name} at micro-batch {best.plan.micro_batch}" in text
    assert f"<summary>{name} as Python</summary>" in text
