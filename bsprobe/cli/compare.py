"""`bsprobe compare`: compare a run with a baseline."""

from pathlib import Path

import click

from bsprobe.analysis.thresholds import Threshold
from bsprobe.cli.command import Command
from bsprobe.cli.options.comparison import compare_and_show, comparison_options
from bsprobe.cli.options.paths import PATH


@click.command(cls=Command)
@click.argument("baseline", type=PATH)
@click.argument("run", type=PATH)
@comparison_options
@click.pass_context
def compare(
    ctx: click.Context,
    baseline: Path,
    run: Path,
    thresholds: tuple[Threshold, ...],
    output: str,
) -> None:
    """Compare RUN with BASELINE and report regressions.

    BASELINE and RUN are each the folder of a run or its run.json. The exit code is 0 if no metric
    regressed, 1 if one did or is missing from RUN, and 2 if the runs cannot be compared. Measured
    memory regresses only if it grows by more than repeated trials of one batch differ. Throughput
    depends on the load of the machine: give it a wide threshold.

    Args:
        ctx: The context of the command.
        baseline: Folder or run.json of the baseline.
        run: Folder or run.json of the run.
        thresholds: Allowed changes; empty for the defaults.
        output: A value of `Format`.
    """
    from bsprobe.storage.runfile import load_run

    ctx.exit(compare_and_show(lambda: (load_run(baseline), load_run(run)), thresholds, output))
