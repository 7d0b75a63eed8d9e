"""The README says what the project does, and its example is a run that is in the repository."""

import re

from bsprobe.report.explain import markdown as explain_markdown
from bsprobe.report.explain.sentences import what, what_helps, why
from bsprobe.report.run import terminal
from bsprobe.storage.explanationfile import load_explanation
from bsprobe.storage.runfile import load_run
from bsprobe.study.report import terminal as study_terminal
from bsprobe.study.studyfile import load_study
from tests.support.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PREDICTED = ROOT / "reports" / "predicted-rtx-3090-deeplabv2-resnet101-512x1024"
MEASURED = ROOT / "reports" / "cpu-500mib-deeplabv2-resnet50-64x128"
STUDY = ROOT / "reports" / "study-cpu-deeplabv2-mini-64x128"


EXPLAINED = ROOT / "reports" / "explain-rtx-3060-12gb-deeplabv2-resnet101-512x1024-fp32-batch"


def commands() -> list[str]:
    """The first command of each shell block."""
    return [block.splitlines()[0] for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]


def test_ci_runs_the_readmes_test_command_as_it_stands() -> None:
    assert commands()[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def examples() -> list[str]:
    """What commands print, as the README shows it."""
    return re.findall(r"```text\n(.*?)\n```", README, re.DOTALL)


def test_the_examples_are_what_their_runs_print() -> None:
    printed = [terminal.render(load_run(folder)).rstrip("\n") for folder in (PREDICTED, MEASURED)]
    assert examples()[:2] == printed


def test_the_study_is_what_it_prints_without_its_notes() -> None:
    printed = study_terminal.render(load_study(STUDY))

    assert examples()[2:] == [printed.partition("\n\nNote")[0]]


def test_the_study_was_made_by_the_readmes_command_and_learns() -> None:
    study = load_study(STUDY)

    assert f"\n{study.environment.command}\n" in README
    for training in study.trainings:
        assert training.result is not None
        first, last = training.result.curve[0], training.result.curve[-1]
        assert (last.validation_loss or 9) < (first.validation_loss or 0)
        assert last.mean_iou > 5 * training.result.chance.mean_iou


def test_the_examples_were_made_by_the_commands_above_them() -> None:
    first = commands()[0].split(".venv/bin/")[-1]
    made_by = [load_run(folder).environment.command for folder in (PREDICTED, MEASURED)]
    assert made_by[0] == first
    assert made_by[1] in commands()


def test_what_the_readme_says_of_the_explanation_is_what_its_file_renders() -> None:
    report = load_explanation(EXPLAINED)
    for sentence in (what_helps, what, why):
        assert sentence(report) in README
    text = explain_markdown.render(report, depth=2, plots=("step-by-kind", "step-by-module"))
    assert text == (EXPLAINED / "explain.md").read_text(encoding="utf-8")


def test_the_explanation_was_made_by_the_readmes_command() -> None:
    assert load_explanation(EXPLAINED).environment.command in commands()


def test_every_file_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_quotes_how_accurate_predictions_are() -> None:
    report = (ROOT / "reports" / "accuracy.md").read_text(encoding="utf-8")
    assert f"[{report.splitlines()[0].removeprefix('# ')}](reports/accuracy.md)" in README
