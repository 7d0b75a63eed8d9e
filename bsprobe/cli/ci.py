"""`bsprobe ci`: predict the matrix of a baseline again, and compare."""

from dataclasses import replace
from pathlib import Path

import click

from bsprobe.analysis.thresholds import Threshold
from bsprobe.cli.command import Command
from bsprobe.cli.options.comparison import compare_and_show, comparison_options
from bsprobe.cli.options.named import require_there
from bsprobe.cli.options.values import typed_command
from bsprobe.cli.run import probe
from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import DEFAULT_GPU, find_gpu
from bsprobe.records.runs import Run, Settings
from bsprobe.records.trials import Source


@click.command(cls=Command)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    required=True,
    help="The run.json of a predicted run (or its folder): `bsprobe run --gpu NAME` makes one.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the report; new or empty.  [default: reports/predicted-DEVICE-MODEL-SIZE]",
)
@comparison_options
@click.pass_context
def ci(
    ctx: click.Context,
    baseline: Path,
    out: Path | None,
    thresholds: tuple[Threshold, ...],
    output: str,
) -> None:
    """Predict what a baseline predicted, with the code as it is now, and compare.

    Needs no GPU. Exits with 0 if nothing is worse than allowed, 1 if something is, and 2 if the two
    cannot be compared: make the baseline anew when PyTorch's minor version changes.
    """
    from bsprobe.analysis.comparability import require_comparable_torch
    from bsprobe.engine.run import Start
    from bsprobe.storage.runfile import load_run
    from bsprobe.worker.environment import installed_version

    def runs() -> tuple[Run, Run]:
        before = load_run(baseline)
        settings = _settings_of(before, baseline)
        require_there(settings)
        if torch := installed_version("torch"):
            require_comparable_torch(before, torch)
        from bsprobe.report.run.write import write_report  # with the plots it takes seconds

        made = probe(Start(settings=settings, folder=out, command=typed_command()))
        write_report(made.run, made.folder)
        click.echo(f"Wrote {made.folder}/", err=True)
        return before, made.run

    ctx.exit(compare_and_show(runs, thresholds, output))


def _settings_of(before: Run, path: Path) -> Settings:
    """The baseline's settings, for its card even where this machine has a GPU."""
    if before.device.source is not Source.PREDICTED:
        raise UsageError(
            f"--baseline: {path} was measured, and bsprobe ci predicts",
            hint="measure again with bsprobe run, then bsprobe compare; or make a predicted "
            "baseline with bsprobe run --gpu NAME",
        )
    device = before.settings.device
    card = device.gpu or find_gpu(DEFAULT_GPU)
    return replace(before.settings, device=replace(device, device=None, gpu=card))
