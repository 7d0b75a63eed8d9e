"""`bsprobe ci`: repeat the predictions of a baseline and compare."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.comparison import compare_and_show, comparison_options
from bsprobe.cli.options.named import require_there
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.values import typed_command
from bsprobe.cli.printing import show_on_stderr
from bsprobe.cli.run import probe
from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import DEFAULT_GPU, find_gpu
from bsprobe.records.printable import single_line
from bsprobe.records.trials import Source

if TYPE_CHECKING:
    from pathlib import Path

    from bsprobe.analysis.thresholds import Threshold
    from bsprobe.engine.run import Finished
    from bsprobe.records.runs import Run, Settings


@click.command(cls=Command)
@click.option(
    "--baseline",
    type=PATH,
    required=True,
    help="Predicted run to compare with: its folder or run.json, as `bsprobe run --gpu NAME` "
    "writes it.",
)
@click.option(
    "--out",
    type=PATH,
    help="Folder for the new run, new or empty.  [default: reports/predicted-DEVICE-MODEL-SIZE]",
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
    """Repeat the predictions of a baseline and compare.

    Needs no GPU. The exit code is 0 if no metric regressed, 1 if one did, and 2 if the runs cannot
    be compared. Make a new baseline when PyTorch's minor version changes.

    Args:
        ctx: The context of the command.
        baseline: Folder or run.json of a predicted run.
        out: Folder for the new run; None for a new one below reports/.
        thresholds: Allowed changes; empty for the defaults.
        output: A value of `Format`.
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
        finished = probe(Start(settings=settings, folder=out, command=typed_command()))
        afterwards.callback(_write, finished)
        return before, finished.run

    with ExitStack() as afterwards:  # the comparison is printed before anything is written
        code = compare_and_show(runs, thresholds, output)
    ctx.exit(code)


def _write(finished: Finished) -> None:
    from bsprobe.report.run.write import write_report  # takes seconds: it imports the plots

    if finished.unsaved is not None:
        raise finished.unsaved
    write_report(finished.run, finished.folder)
    show_on_stderr(f"Wrote {single_line(str(finished.folder))}/")


def _settings_of(before: Run, path: Path) -> Settings:
    """The settings of the baseline, with the card it was predicted for.

    Without the card, a machine with a GPU would measure.
    """
    if before.device.source is not Source.PREDICTED:
        raise UsageError(
            f"--baseline: {path} is a measured run; bsprobe ci needs a predicted one",
            hint="make one with `bsprobe run --gpu NAME`; to compare measured runs, use "
            "`bsprobe compare BASELINE RUN`",
        )
    device = before.settings.device
    card = device.gpu or find_gpu(DEFAULT_GPU)
    return replace(before.settings, device=replace(device, device=None, gpu=card))
