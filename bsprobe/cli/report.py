"""`bsprobe report`: render a finished run again, or compare several in a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.values import wrote

if TYPE_CHECKING:
    from bsprobe.analysis.fleet import Fleet


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the files.  [default: the folder of the run; for several runs, "
    "reports/fleet-MODEL-SIZE]",
)
def report(run: tuple[Path, ...], out: Path | None) -> None:
    """Render a run again, or put several runs into one table.

    RUN is the folder of a run or its run.json. One RUN: writes its tables, plots and report again.
    Several, from any machines: writes one table with the recommendation of each run for each
    variant, measured or predicted. Nothing is measured.
    """
    if len(run) == 1:
        _again(run[0], out)
    else:
        _beside_each_other(run, out)


def _again(run: Path, out: Path | None) -> None:
    from bsprobe.storage.files import file_errors
    from bsprobe.storage.runfile import load_run

    loaded = load_run(run)
    from bsprobe.report.run import terminal  # takes seconds: it imports the plots
    from bsprobe.report.run.write import write_report

    folder = out or (run if run.is_dir() else run.parent)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    click.echo(terminal.render(loaded))
    write_report(loaded, folder)
    click.echo(wrote(folder, "report.md"))


def _beside_each_other(paths: tuple[Path, ...], out: Path | None) -> None:
    from bsprobe.analysis.fleet import make_fleet
    from bsprobe.storage.files import file_errors
    from bsprobe.storage.runfile import load_run

    fleet = make_fleet([(str(path), load_run(path)) for path in paths])
    from bsprobe.report.compare.fleet import render_text, write_fleet  # as above

    folder = out or _new_folder(fleet)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    click.echo(render_text(fleet))
    write_fleet(fleet, folder)
    click.echo(wrote(folder, "fleet.md"))


def _new_folder(fleet: Fleet) -> Path:
    from bsprobe.storage.folders import REPORTS, new_folder, slug

    models = dict.fromkeys(row.variant.model for row in fleet.rows)
    sizes = dict.fromkeys(row.variant.inputs for row in fleet.rows)
    return new_folder(REPORTS, slug("-".join(["fleet", *models, *sizes])))
