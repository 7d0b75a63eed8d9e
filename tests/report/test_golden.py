"""Every text of a run is compared with a reviewed copy.

After an intended change: BSPROBE_UPDATE_GOLDEN=1 pytest tests/report, then read the diff.
"""

import re
from dataclasses import replace
from functools import partial

from bsprobe.records.runs import Recommendation, Run
from bsprobe.records.units import GIB
from bsprobe.records.variants import labels
from bsprobe.report.run import markdown, tables, terminal
from bsprobe.report.run.plan import render as render_plan
from bsprobe.report.snippet import snippet
from tests.support import golden

check = partial(golden.check, __file__)


def test_every_text_of_a_run_is_as_agreed(run: Run, item: Recommendation) -> None:
    script = snippet.render(run, item)
    check("terminal.txt", terminal.render(run), columns=80)
    check("report.md", markdown.render(run, plots=("memory", "throughput"), snippet=script))
    check("trials.csv", tables.to_csv(tables.trials_table(run)).decode())
    check("recommendation.csv", tables.to_csv(tables.recommendation_table(run)).decode())
    check("snippet.py.txt", script)
    check("plan.txt", render_plan(run.settings, None, run.device))


def test_the_plan_of_a_prediction_says_that_nothing_runs(predicted: Run) -> None:
    said = render_plan(predicted.settings, None, predicted.device).splitlines()
    assert f"on {predicted.device.name}, predicted" in said
    assert said[-2:] == [
        "Trials are predicted from a trace; nothing runs on a GPU.",
        "Results go to reports/DEVICE-MODEL-SIZE/.",
    ]


def test_a_prediction_says_so_and_never_says_measured(predicted: Run) -> None:
    texts = terminal.render(predicted), markdown.render(predicted, plots=(), snippet=None)
    for text in texts:
        assert "predicted" in text
        assert "measured" not in text.replace("batches measured", "")


def test_the_log_shows_what_a_limit_left_to_the_allocator_where_there_was_one(run: Run) -> None:
    first, *others = run.trials
    limited = replace(run, trials=(replace(first, budget_bytes=7 * GIB), *others))
    texts = [markdown.render(made, plots=(), snippet=None) for made in (run, limited)]
    columns = [re.findall(r"^\| [^|]+ \| 1 \| search.*", text, re.MULTILINE) for text in texts]
    assert [text.count("allocator's budget") for text in texts] == [0, 1]
    assert [line.split(" | ")[-1] for line in columns[1]][:2] == ["7.00 GiB |", "- |"]


def test_all_parts_of_a_report_speak_of_the_same_setting(predicted: Run) -> None:
    best = predicted.best
    assert best is not None
    name = labels(predicted.settings.variants)[best.variant]
    text = markdown.render(predicted, plots=(), snippet=snippet.render(predicted, best))
    assert f" as {name} with micro-batch {best.plan.micro_batch} " in text
    assert f"What fills the memory of {name} at micro-batch {best.plan.micro_batch}" in text
    assert f"<summary>{name} as Python</summary>" in text
