"""`bsprobe compare`: hold a run against a baseline."""

from pathlib import Path

import click

from bsprobe.analysis.thresholds import Threshold
from bsprobe.cli.command import Command
from bsprobe.cli.options.comparison import compare_and_show, comparison_options


@click.command(cls=Command)
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@comparison_options
@click.pass_context
def compare(
    ctx: click.Context,
    baseline: Path,
    run: Path,
    thresholds: tuple[Threshold, ...],
    output: str,
) -> None:
    """Hold RUN against BASELINE, each the folder of a run or its run.json.

    Exits with 0 if nothing is worse than allowed, 1 if something is, or is missing from RUN, and
    2 if the two cannot be compared. Measured memory counts as worse only beyond what equal trials
    differ by. Throughput varies with all else that the machine does: leave it room.
    """
    from bsprobe.storage.runfile import load_run

    ctx.exit(compare_and_show(lambda: (load_run(baseline), load_run(run)), thresholds, output))
