"""Records of all kinds with one text in all places, and what each renderer makes of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bsprobe.analysis.compare import compare
from bsprobe.analysis.fleet import make_fleet
from bsprobe.analysis.thresholds import DEFAULT_THRESHOLDS
from bsprobe.records.fits import CardFit, Fitting
from bsprobe.records.gpus import find_gpu
from bsprobe.records.printable import single_line
from bsprobe.records.runs import Run
from bsprobe.report import fit
from bsprobe.report.compare import comparison, fleet, fleet_plot
from bsprobe.report.explain import markdown as explain_markdown
from bsprobe.report.explain import plots as explain_plots
from bsprobe.report.explain import write as explain_write
from bsprobe.report.run import markdown, plan, plots, tables, terminal
from bsprobe.study.records import Study
from bsprobe.study.report import batches_plot, curves_plot, loader_plot, sentences
from bsprobe.study.report import markdown as study_markdown
from bsprobe.study.report import tables as study_tables
from bsprobe.study.report import terminal as study_terminal
from tests.support.builders import ENVIRONMENT
from tests.support.explanations import EXPLANATION, MEASURED_REPORT, REPORT
from tests.support.hostile import (
    with_text,
)


class Records:
    """The records of all renderers, each with one text in all places."""

    def __init__(self, run: Run, script: Run, study: Study, lost: Study) -> None:
        card = find_gpu("RTX 3090")
        self._known = (
            (run, script),
            (REPORT, MEASURED_REPORT),
            (study, lost),
            Fitting(
                environment=ENVIRONMENT,
                wanted_batch=3,
                fits=tuple(
                    CardFit(gpu=card, variant=v, largest=5, next_outcome=None, notes=("a", "b"))
                    for v in run.settings.variants
                ),
            ),
        )

    def of(self, text: str) -> tuple[Any, Any, Any, Any]:
        """Return runs, explanations, studies and a fit with a text."""
        runs, explanations, studies, found = (with_text(known, text) for known in self._known)
        return runs, explanations, studies, found


def fleet_of(runs: tuple[Run, Run], text: str) -> Any:
    other = replace(runs[0], environment=replace(runs[0].environment, started_at="later"))
    return make_fleet([(text, runs[0]), (f"{text}2", other), (f"{text}3", runs[1])])


def compared(runs: tuple[Run, Run]) -> Any:
    run = runs[0]
    failed = tuple(replace(each, boundary=run.results[-1].boundary) for each in run.results[1:])
    return compare(run, replace(run, results=(run.results[0], *failed)), DEFAULT_THRESHOLDS)


def printed(records: Records, text: str) -> dict[Any, list[str]]:
    """The texts that are printed, by renderer."""
    runs, explained, studies, found = records.of(text)
    shown = fleet_of(runs, text)
    return {
        terminal.render: [terminal.render(run) for run in runs],
        plan.render: [plan.render(run.settings, Path(text), run.device) for run in runs],
        explain_markdown.render_terminal: list(map(explain_markdown.render_terminal, explained)),
        explain_markdown.render_memory: list(map(explain_markdown.render_memory, explained)),
        explain_markdown.render_changes: list(map(explain_markdown.render_changes, explained)),
        study_terminal.render: list(map(study_terminal.render, studies)),
        fit.render_text: [fit.render_text(found), fit.next_command(found)],
        fleet.render_text: [fleet.render_text(shown)],
        comparison.render: [comparison.render(compared(runs))],
    }


def written(records: Records, text: str) -> dict[Any, list[str]]:
    """The texts in markdown, by renderer."""
    runs, explained, studies, found = records.of(text)
    names, code = ("memory", markdown.EXPLAINED), f"'''\n{single_line(text)}\n```\n'''\n"
    return {
        markdown.render: [markdown.render(run, plots=names, snippet=code) for run in runs],
        explain_markdown.render: [
            explain_markdown.render(replace(report, depth=2), plots=("a", "b"))
            for report in explained
        ],
        study_markdown.render: [
            study_markdown.render(study, plots=("batches",), snippet=code) for study in studies
        ],
        fit.render_markdown: [fit.render_markdown(found)],
        fleet.render_markdown: [fleet.render_markdown(fleet_of(runs, text))],
        comparison.markdown: [comparison.markdown(compared(runs))],
    }


def tabulated(records: Records, text: str) -> dict[Any, list[Any]]:
    """The tables, by renderer."""
    runs, explained, studies, _ = records.of(text)
    found = [report.explanation for report in explained]
    return {
        tables.trials_table: list(map(tables.trials_table, runs)),
        tables.recommendation_table: list(map(tables.recommendation_table, runs)),
        fleet.fleet_table: [fleet.fleet_table(fleet_of(runs, text))],
        explain_write.memory_table: list(map(explain_write.memory_table, found)),
        explain_write.timeline_table: list(map(explain_write.timeline_table, found)),
        explain_write.remedies_table: list(map(explain_write.remedies_table, explained)),
        study_tables.trainings_table: list(map(study_tables.trainings_table, studies)),
        study_tables.curves_table: list(map(study_tables.curves_table, studies)),
        study_tables.loader_table: list(map(study_tables.loader_table, studies)),
    }


def drawn(records: Records, text: str) -> dict[Any, Callable[[], Figure | None]]:
    """Functions that draw the pictures, by renderer."""
    runs, explained, studies, found = records.of(text)
    study = studies[0]
    summaries, chosen = sentences.chosen_of(study)
    assert chosen is not None
    chance = next(t.result.chance for t in study.trainings if t.result is not None)
    timeline = with_text(EXPLANATION, text)
    return {
        plots.memory_figure: lambda: plots.memory_figure(runs[0]),
        plots.throughput_figure: lambda: plots.throughput_figure(runs[0]),
        explain_plots.kinds_figure: lambda: explain_plots.kinds_figure(explained[1].explanation),
        explain_plots.modules_figure: lambda: explain_plots.modules_figure(timeline),
        fit.figure: lambda: fit.figure(found),
        fleet_plot.fleet_figure: lambda: fleet_plot.fleet_figure(fleet_of(runs, text)),
        batches_plot.batches_figure: lambda: batches_plot.batches_figure(
            study, summaries, chosen, chance
        ),
        curves_plot.curves_figure: lambda: curves_plot.curves_figure(study, summaries, chance),
        loader_plot.loader_figure: lambda: loader_plot.loader_figure(study),
    }
