"""`bsprobe report`: render a finished run again."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the files.  [default: the folder of the run]",
)
def report(run: Path, out: Path | None) -> None:
    """Render RUN (the folder of a run, or its run.json) again: tables, plots, report.

    Nothing is measured.
    """
    from bsprobe.files import file_errors
    from bsprobe.report import terminal
    from bsprobe.report.write import write_report
    from bsprobe.runfile import load_run

    loaded = load_run(run)
    folder = out or (run if run.is_dir() else run.parent)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    click.echo(terminal.render(loaded))
    write_report(loaded, folder)
    click.echo(f"Wrote {folder}/   Next: read {folder}/report.md")
