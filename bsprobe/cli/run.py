"""`bsprobe run`: probe a matrix of variants and write what to train with."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.named import require_there
from bsprobe.cli.options.resume import require_same_settings
from bsprobe.cli.options.run import FACETS, settings_from, settings_options
from bsprobe.cli.options.values import typed_command, wrote
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.worker.ranks.launch import launched
from bsprobe.worker.required import require_report_packages

if TYPE_CHECKING:
    from bsprobe.engine.run import Finished, Start
    from bsprobe.records.runs import Settings
    from bsprobe.worker.ranks.launch import Launch
    from bsprobe.worker.ranks.runner import Connect


@click.command(cls=Command)
@settings_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; new or empty.  [default: reports/DEVICE-MODEL-SIZE]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the unfinished run in --out (or the newest one below reports/) without "
    "repeating a finished trial.  [default: off]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Open the device, check all that is asked, show what would be probed, and stop.  "
    "[default: off]",
)
@click.pass_context
def run(
    ctx: click.Context, /, *, out: Path | None, resume: bool, dry_run: bool, **given: Any
) -> None:
    """Probe batch sizes with real training steps and recommend what to train with.

    Doubles the batch until memory runs out, finds the exact boundary, proves it in fresh
    processes, and scales the learning rate. Lists make a matrix: every combination is probed.
    """
    asked = settings_from(given)
    if not resume:  # then the settings are those of the journal
        require_there(asked)
    launch = launched(os.environ)
    if launch is not None and not launch.leads:
        _follow(asked, launch, ctx.obj)
        return
    require_report_packages()
    start = _start(ctx, asked, out, resume=resume)
    if launch is not None:
        from bsprobe.worker.ranks.runner import WorldRunner

        open_ranks = partial(WorldRunner, launch=launch, connect=ctx.obj)
        start = replace(start, open_runner=open_ranks)
    if dry_run:
        click.echo(_plan_text(start))
        return
    _warn(start.settings)
    finished = probe(start)
    _write(finished)
    if finished.run.has_only_failed:
        raise DeviceError(
            "every variant failed, and none for want of the memory that was probed",
            hint=f"all details are in {shlex.quote(str(finished.folder / 'report.md'))}",
        )


def _follow(asked: Settings, launch: Launch, connect: Connect) -> None:
    """Run this rank's part of what rank 0 searches; rank 0 says and writes everything."""
    from bsprobe.worker.ranks.runner import WorldRunner

    with WorldRunner(asked, launch, connect) as runner:
        runner.follow()


def _start(ctx: click.Context, asked: Settings, out: Path | None, *, resume: bool) -> Start:
    """The beginning of the run; a journal's settings hold if nothing typed contradicts them."""
    from bsprobe.engine.resume import begun_run
    from bsprobe.engine.run import Start

    start = Start(settings=asked, folder=out, command=typed_command())
    if not resume:
        return start
    folder, journal, contents = begun_run(out)
    before = contents.header.settings
    require_same_settings(ctx, FACETS, asked, before, f"run in {folder}")
    if before.processes != asked.processes:
        raise UsageError(
            f"the run in {folder} is of {before.processes} processes, not {asked.processes}",
            hint="start as many, or start a new run without --resume",
        )
    require_there(before)
    if before.processes == 1:  # of several, every rank has its limit from the command line
        # A limit that was derived from what was free then must not move while the run goes on.
        limit = contents.header.device.limit_bytes
        before = replace(before, device=replace(before.device, memory_limit_bytes=limit))
    return replace(start, settings=before, folder=folder, resumed=(journal, contents))


def probe(start: Start) -> Finished:
    """Make the run, and show on standard error how it goes."""
    from rich.console import Console

    from bsprobe.engine.run import run as make
    from bsprobe.report.run.progress import TrialProgress

    progress = TrialProgress(start.settings, Console(stderr=True))
    with progress.shown():
        return make(start, listener=progress, warn=progress.warn)


def _write(finished: Finished) -> None:
    from bsprobe.report.explain.plots import write_kinds_plot
    from bsprobe.report.run import markdown, terminal
    from bsprobe.report.run.write import write_report

    folder, best = finished.folder, finished.run.best
    click.echo(terminal.render(finished.run))
    if best is not None and best.variant in finished.explanations:
        write_kinds_plot(finished.explanations[best.variant], folder / markdown.EXPLAINED)
    write_report(finished.run, folder)
    click.echo(wrote(folder, "report.md"))


def _warn(settings: Settings) -> None:
    from bsprobe.report.run.sentences import portrait_warnings

    for warning in portrait_warnings(settings.variants):
        click.echo(f"warning: {warning}", err=True)


def _plan_text(start: Start) -> str:
    """The plan of a run, once all that it needs is known to be there."""
    from rich.console import Console

    from bsprobe.engine.run import rehearse
    from bsprobe.report.run.plan import render
    from bsprobe.report.run.progress import TrialProgress

    with TrialProgress(start.settings, Console(stderr=True)).shown():
        settings, device = rehearse(start)
    return render(settings, start.folder, device)
