"""`bsprobe run`: find the largest batch of each variant and recommend a recipe."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.options.named import require_there
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.resume import require_same_settings
from bsprobe.cli.options.run import FACETS, settings_from, settings_options
from bsprobe.cli.options.script import ScriptCommand
from bsprobe.cli.options.values import typed_command, wrote
from bsprobe.cli.printing import show, show_on_stderr
from bsprobe.records.errors import DeviceError, InterruptedRunError, UsageError
from bsprobe.records.printable import shell_word
from bsprobe.records.trials import Source
from bsprobe.worker.ranks.launch import launched
from bsprobe.worker.required import require_report_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bsprobe.engine.run import Finished, Start
    from bsprobe.records.runs import Settings
    from bsprobe.worker.ranks.launch import Launch
    from bsprobe.worker.ranks.runner import Connect


@click.command(cls=ScriptCommand)
@settings_options
@click.option(
    "--out",
    type=PATH,
    help="Folder for the results, new or empty.  [default: reports/DEVICE-MODEL-SIZE]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the unfinished run in --out, or the newest one below reports/. Finished "
    "trials are not repeated.  [default: off]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the options and the device, show the plan, and stop.  [default: off]",
)
@click.pass_context
def run(
    ctx: click.Context, /, *, out: Path | None, resume: bool, dry_run: bool, **given: Any
) -> None:
    """Find the largest batch that fits and recommend a recipe.

    Doubles the batch until memory runs out, finds the exact boundary, verifies it in fresh
    processes, and scales the learning rate. Options marked LIST take values separated by commas;
    every combination is probed. Sizes are numbers with a unit, such as 11GiB.

    A COMMAND is your own training script with {batch} in the place of the batch:
    -- python train.py --batch-size {batch}. It is run as it is, instead of a network.

    Args:
        ctx: The context of the command.
        out: Folder for the results; None for a new one below reports/.
        resume: Continue an unfinished run.
        dry_run: Print the plan only.
        **given: The options of `settings_options`.
    """
    asked = settings_from(given)
    if not resume:  # otherwise the settings come from the journal
        require_there(asked)
    launch = launched(os.environ)
    if launch is not None and asked.script is not None:
        raise UsageError(
            "torchrun starts bsprobe, and bsprobe starts a command",
            hint=f"put torchrun into the command: bsprobe run -- torchrun ... {asked.script}",
        )
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
        show(_plan_text(start))
        return
    _warn(start.settings)
    finished = probe(start)
    with _interruptible(finished.folder):
        _write(finished)
    if finished.run.has_only_failed:
        raise DeviceError(
            "the command failed for another reason than the probed memory"
            if finished.run.settings.script is not None
            else "every variant failed for another reason than the probed memory",
            hint=f"see the tracebacks in {shell_word(str(finished.folder / 'report.md'))}",
        )


def _follow(asked: Settings, launch: Launch, connect: Connect) -> None:
    """Run the trials that rank 0 asks for; only rank 0 prints and writes."""
    from bsprobe.worker.ranks.runner import WorldRunner

    with WorldRunner(asked, launch, connect) as runner:
        runner.follow()


def _start(ctx: click.Context, asked: Settings, out: Path | None, *, resume: bool) -> Start:
    """The start of the run; a resumed one takes its settings from the journal.

    Raises:
        UsageError: A typed option differs from the journal.
    """
    from bsprobe.engine.resume import begun_run
    from bsprobe.engine.run import Start

    start = Start(settings=asked, folder=out, command=typed_command())
    if not resume:
        return start
    folder, journal, contents = begun_run(out)
    before = contents.header.settings
    require_same_settings(ctx, FACETS, asked, before, f"run in {folder}")
    is_predicted = contents.header.device.source is Source.PREDICTED
    if before.processes != asked.processes and not is_predicted:
        raise UsageError(
            f"the run in {folder} has {before.processes} processes, not {asked.processes}",
            hint=f"start {before.processes} processes, or start a new run without --resume",
        )
    require_there(before)
    # With several measured ones, each rank takes its limit from the command line.
    if before.processes == 1 or is_predicted:
        # Free memory has changed since; a limit derived from it must stay the same.
        limit = contents.header.device.limit_bytes
        before = replace(before, device=replace(before.device, memory_limit_bytes=limit))
    return replace(start, settings=before, folder=folder, resumed=(journal, contents))


def probe(start: Start) -> Finished:
    """Make the run, with progress on standard error."""
    from rich.console import Console

    from bsprobe.engine.run import run as make
    from bsprobe.report.run.progress import TrialProgress

    progress = TrialProgress(start.settings, Console(stderr=True))
    with progress.shown():
        return make(start, listener=progress, warn=progress.warn)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C while the report is written into an error that names its command."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; the run is finished, its report is not",
            hint=f"write it with: bsprobe report {shell_word(str(folder))}",
        ) from None


def _write(finished: Finished) -> None:
    from bsprobe.report.explain.plots import write_kinds_plot
    from bsprobe.report.run import markdown, terminal
    from bsprobe.report.run.write import write_report

    folder, best = finished.folder, finished.run.best
    show(terminal.render(finished.run))
    if finished.unsaved is not None:
        raise finished.unsaved
    if best is not None and best.variant in finished.explanations:
        write_kinds_plot(finished.explanations[best.variant], folder / markdown.EXPLAINED)
    write_report(finished.run, folder)
    show(wrote(folder, "report.md"))


def _warn(settings: Settings) -> None:
    from bsprobe.report.run.sentences import portrait_warnings

    for warning in portrait_warnings(settings.variants):
        show_on_stderr(f"warning: {warning}")


def _plan_text(start: Start) -> str:
    """The plan of a run as text; opens the device first."""
    from rich.console import Console

    from bsprobe.engine.run import rehearse
    from bsprobe.report.run.plan import render
    from bsprobe.report.run.progress import TrialProgress

    with TrialProgress(start.settings, Console(stderr=True)).shown():
        settings, device = rehearse(start)
    return render(settings, start.folder, device)
