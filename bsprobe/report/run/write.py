"""All files of a report, in one folder."""

from pathlib import Path

from bsprobe.records.runs import Run
from bsprobe.report.run import markdown, plots, tables
from bsprobe.report.snippet import snippet
from bsprobe.storage.files import write_atomically


def write_report(run: Run, folder: Path) -> None:
    """Write tables, plots, the snippet and the report; `run.json` is written elsewhere.

    A user's command has no snippet: its report ends with the command to train with.

    Raises:
        FileError: A file cannot be written; `bsprobe report` renders `run.json` again.
    """
    write_atomically(folder / "trials.csv", tables.to_csv(tables.trials_table(run)))
    write_atomically(folder / "recommendation.csv", tables.to_csv(tables.recommendation_table(run)))
    names = plots.write_plots(run, folder)
    if (folder / f"{markdown.EXPLAINED}.png").exists():  # drawn when the run was made
        names.append(markdown.EXPLAINED)
    best = run.best
    code = None if best is None or run.settings.script is not None else snippet.render(run, best)
    if code is not None:
        write_atomically(folder / "snippet.py", code.encode())
    text = markdown.render(run, plots=names, snippet=code)
    write_atomically(folder / "report.md", text.encode())
