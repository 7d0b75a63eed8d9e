"""Every text of a study that a person reads, against a copy that a person has read.

After a change that is meant: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

from pathlib import Path

import pytest

from bsprobe.report.run.tables import to_csv
from bsprobe.study.records import Study
from bsprobe.study.report import markdown, sentences, tables, terminal
from bsprobe.study.report.write import study_snippet
from tests.support import golden

GOLDEN = Path(__file__).parent / "golden"
PLOTS = ("batches", "curves", "loader")


def check(name: str, text: str) -> None:
    golden.check(GOLDEN / name, text)


def snippet_of(study: Study) -> str:
    _, chosen = sentences.chosen_of(study)
    assert chosen is not None
    return study_snippet(study, chosen)


def test_the_terminal_output_is_as_agreed(study: Study) -> None:
    check("terminal.txt", terminal.render(study))


def test_the_terminal_output_of_a_troubled_study_is_as_agreed(troubled: Study) -> None:
    check("terminal-troubled.txt", terminal.render(troubled))


def test_the_terminal_output_where_nothing_fits_is_as_agreed(hopeless: Study) -> None:
    check("terminal-hopeless.txt", terminal.render(hopeless))


@pytest.mark.parametrize("name", ["study", "troubled", "hopeless"])
def test_the_terminal_output_fits_80_columns(name: str, request: pytest.FixtureRequest) -> None:
    text = terminal.render(request.getfixturevalue(name))
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_the_report_is_as_agreed(study: Study) -> None:
    check("report.md", markdown.render(study, plots=PLOTS, snippet=snippet_of(study)))


def test_the_report_of_a_troubled_study_is_as_agreed(troubled: Study) -> None:
    check("report-troubled.md", markdown.render(troubled, plots=PLOTS, snippet=None))


def test_the_report_where_nothing_fits_is_as_agreed(hopeless: Study) -> None:
    check("report-hopeless.md", markdown.render(hopeless, plots=(), snippet=None))


def test_the_tables_are_as_agreed(troubled: Study) -> None:
    check("trainings.csv", to_csv(tables.trainings_table(troubled)).decode())
    check("curves.csv", to_csv(tables.curves_table(troubled)).decode())
    check("loader.csv", to_csv(tables.loader_table(troubled)).decode())


def test_the_snippets_loader_is_the_recommended_one(study: Study) -> None:
    text = snippet_of(study)

    assert "updates=UPDATES, workers=2):" in text
    assert "pin_memory=True,\n" in text
    assert "prefetch_factor=2 if workers else None,\n" in text
    assert "LEARNING_RATE = 0.004  # linear rule from 0.004 at batch 4" in text
    assert "UPDATES = 40  # as many images as 40 updates of 4" in text
    compile(text, "snippet.py", "exec")
