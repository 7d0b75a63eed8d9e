"""The texts and tables of a study, compared with reviewed copies.

After an intended change: BSPROBE_UPDATE_GOLDEN=1 pytest tests/study/report, then read the diff.
"""

from functools import partial
from pathlib import Path

import pytest

from bsprobe.report.run.tables import to_csv
from bsprobe.study.records import Study
from bsprobe.study.report import markdown, sentences, tables, terminal
from bsprobe.study.report.write import study_snippet
from tests.support import golden
from tests.support.study_builders import made_study, study_settings

PLOTS = ("batches", "curves", "loader")
check = partial(golden.check, __file__)


def snippet_of(study: Study) -> str:
    _, chosen = sentences.chosen_of(study)
    assert chosen is not None
    text = study_snippet(study, chosen)
    compile(text, "snippet.py", "exec")
    return text


@pytest.mark.parametrize("name", ["study", "troubled", "hopeless"])
def test_the_terminal_output_and_the_report_equal_the_golden_files(
    request: pytest.FixtureRequest, name: str
) -> None:
    made = request.getfixturevalue(name)
    plots = () if name == "hopeless" else PLOTS
    snippet = snippet_of(made) if name == "study" else None
    ending = "" if name == "study" else f"-{name}"
    check(f"terminal{ending}.txt", terminal.render(made), columns=80)
    check(f"report{ending}.md", markdown.render(made, plots=plots, snippet=snippet))


def test_the_tables_equal_the_golden_files(troubled: Study) -> None:
    check("trainings.csv", to_csv(tables.trainings_table(troubled)).decode())
    check("curves.csv", to_csv(tables.curves_table(troubled)).decode())
    check("loader.csv", to_csv(tables.loader_table(troubled)).decode())


def test_one_batch_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    _, chosen = sentences.chosen_of(made_study(tmp_path, study_settings(4)))
    assert chosen is not None
    assert "no other batch" in sentences.certainty(chosen)
