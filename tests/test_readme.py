"""The README: its length, its figures and its examples, held against runs in the repository."""

import re
import shlex

from bsprobe.report.explain import markdown as explain_markdown
from bsprobe.report.explain.changes import what_helps
from bsprobe.report.run import terminal
from bsprobe.storage.explanationfile import load_explanation
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT
from tests.support.pages import commands_of, shown

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
REPORTS = ROOT / "reports"
PREDICTED = REPORTS / "predicted-rtx-3090-deeplabv2-resnet101-512x1024"
EXPLAINED = REPORTS / "explain-rtx-3060-12gb-deeplabv2-resnet101-512x1024-fp32-batch"
MEASURED = {
    "H200": REPORTS / "measured-h200-deeplabv2-resnet101-512x1024",
    "H100": REPORTS / "measured-h100-80gb-deeplabv2-resnet101-512x1024-amp-fp16",
}


def test_it_has_at_most_150_lines() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_ci_runs_its_test_command_as_it_stands() -> None:
    (command,) = [line for line in commands_of(README) if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_its_table_is_what_its_first_command_prints() -> None:
    run = load_run(PREDICTED)
    assert commands_of(README)[0].split(".venv/bin/")[-1] == run.environment.command
    (table,) = shown(README)
    assert f"{table}\n" in terminal.render(run)


def test_the_boundaries_that_it_calls_measured_are_in_the_runs() -> None:
    for gpu, folder in MEASURED.items():
        (row,) = re.findall(rf"^\| {gpu}, \[measured\]\(.*?\) \|(.*)\|$", TEXT, re.MULTILINE)
        found = [cell for cell in map(str.strip, row.split("|")) if cell]
        assert found == [str(result.boundary.largest) for result in load_run(folder).results]


def test_it_quotes_how_accurate_predictions_are() -> None:
    report = (REPORTS / "accuracy.md").read_text(encoding="utf-8")
    assert f"[{report.splitlines()[0].removeprefix('# ')}](reports/accuracy.md)" in TEXT


def test_what_it_says_of_the_explanation_is_what_its_file_renders() -> None:
    report = load_explanation(EXPLAINED)
    assert what_helps(report) in TEXT
    words = [shlex.split(line) for line in commands_of(README)]
    assert shlex.split(report.environment.command) in words
    text = explain_markdown.render(report, plots=("step-by-kind", "step-by-module"))
    assert text == (EXPLAINED / "explain.md").read_text(encoding="utf-8")
