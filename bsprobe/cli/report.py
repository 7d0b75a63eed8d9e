"""`bsprobe report`: render a finished run again, or compare several in a table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.values import wrote
from bsprobe.cli.printing import show

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bsprobe.analysis.fleet import Fleet


@click.command(cls=Command)
@click.argument("run", type=PATH, nargs=-1, required=True)
@click.option(
    "--out",
    type=PATH,
    help="Folder for the files, whose files of these names are replaced.  [default: the folder of "
    "the run; reports/NAME for NAME.json; for several runs, reports/fleet-MODEL-SIZE]",
)
def report(run: tuple[Path, ...], out: Path | None) -> None:
    """Render a run again, or put several runs into one table.

    RUN is the folder of a run or its run.json. One RUN: writes its tables, plots and report again;
    it may be the folder of `bsprobe explain` or its explanation.json. Several, from any machines:
    writes one table with the recommendation of each run for each variant, measured or predicted.
    Nothing is measured.
    """
    if len(run) == 1:
        _again(run[0], out)
    else:
        _beside_each_other(run, out)


def _again(path: Path, out: Path | None) -> None:
    from bsprobe.storage.explanationfile import NAME as EXPLANATION
    from bsprobe.storage.explanationfile import is_explanation
    from bsprobe.storage.files import file_errors
    from bsprobe.storage.folders import REPORTS, new_folder, slug
    from bsprobe.storage.runfile import NAME as RUN

    render = _explanation_again if is_explanation(path) else _run_again
    text, write, name = render(path)
    show(text)
    folder = out or (path if path.is_dir() else path.parent)
    if out is None and path.is_file() and path.name not in (RUN, EXPLANATION):
        folder = new_folder(REPORTS, slug(path.stem))  # beside it may be files of the user
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    show(wrote(folder, name))


_Rendered = tuple[str, "Callable[[Path], None]", str]
"""The text for the terminal, the function that writes the files, the name of the report."""


def _run_again(path: Path) -> _Rendered:
    from bsprobe.storage.runfile import load_run

    loaded = load_run(path)
    from bsprobe.report.run import terminal  # takes seconds: it imports the plots
    from bsprobe.report.run.write import write_report

    return terminal.render(loaded), partial(write_report, loaded), "report.md"


def _explanation_again(path: Path) -> _Rendered:
    from bsprobe.storage.explanationfile import load_explanation

    loaded = load_explanation(path)
    from bsprobe.report.explain.markdown import render_terminal  # as above
    from bsprobe.report.explain.write import write_explanation

    return render_terminal(loaded), partial(write_explanation, loaded), "explain.md"


def _beside_each_other(paths: tuple[Path, ...], out: Path | None) -> None:
    from bsprobe.analysis.fleet import make_fleet
    from bsprobe.storage.files import file_errors
    from bsprobe.storage.runfile import load_run

    fleet = make_fleet([(str(path), load_run(path)) for path in paths])
    from bsprobe.report.compare.fleet import render_text, write_fleet  # as above

    show(render_text(fleet))
    folder = out or _new_folder(fleet)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_fleet(fleet, folder)
    show(wrote(folder, "fleet.md"))


def _new_folder(fleet: Fleet) -> Path:
    from bsprobe.storage.folders import REPORTS, new_folder, slug

    models = dict.fromkeys(row.variant.model for row in fleet.rows)
    sizes = dict.fromkeys(row.variant.inputs for row in fleet.rows)
    return new_folder(REPORTS, slug("-".join(["fleet", *models, *sizes])))
