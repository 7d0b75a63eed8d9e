"""`bsprobe run`: probe a matrix of variants and write what to train with."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.options.run import FACETS, settings_from, settings_options
from bsprobe.records.errors import (
    BsprobeError,
    DeviceError,
    FileError,
    InterruptedRunError,
    UsageError,
)
from bsprobe.records.units import format_bytes
from bsprobe.worker.ranks.launch import Launch, launched
from bsprobe.worker.required import require_report_packages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bsprobe.records.explanations import Explanation
    from bsprobe.records.runs import DeviceInfo, Run, Settings
    from bsprobe.records.trials import TrialSpec
    from bsprobe.records.variants import Variant
    from bsprobe.storage.journal import Contents, Journal
    from bsprobe.worker.ranks.runner import Connect, WorldRunner
    from bsprobe.worker.runner import TrialRunner

_BASE = Path("reports")


@click.command()
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
@click.option("--dry-run", is_flag=True, help="Show what would be probed and stop.  [default: off]")
@click.pass_context
def run(
    ctx: click.Context, /, *, out: Path | None, resume: bool, dry_run: bool, **given: Any
) -> None:
    """Probe batch sizes with real training steps and recommend what to train with.

    Doubles the batch until memory runs out, finds the exact boundary, proves it in fresh
    processes, and scales the learning rate. Lists make a matrix: every combination is probed.
    """
    asked = settings_from(given)
    launch = launched(os.environ)
    if launch is not None and not launch.leads:
        if not dry_run:
            _follow(asked, launch, ctx.obj)
        return
    if dry_run:
        click.echo(_plan_text(asked, out))
        return
    require_report_packages()
    start = _resumed(ctx, asked, out) if resume else Start(settings=asked, folder=out)
    start = replace(start, connect=ctx.obj)
    _warn(start.settings)
    finished, folder, explanations = probe(start)
    _write(finished, folder, explanations)
    if finished.has_only_failed:
        raise DeviceError(
            "every variant failed, and not for want of memory",
            hint=f"the tracebacks are in {folder}/report.md",
        )


def _follow(asked: Settings, launch: Launch, connect: Connect) -> None:
    """Run this rank's part of what rank 0 searches; rank 0 says and writes everything."""
    from bsprobe.worker.ranks.runner import WorldRunner

    with WorldRunner(asked, launch, connect) as runner:
        runner.follow()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins: from nothing, or from a journal."""

    settings: Settings
    folder: Path | None
    resumed: Any = None
    """The open `journal.Journal` and its `journal.Contents`, or None."""
    connect: Any = None
    """Connects to the store of the ranks, where torchrun started several: `ranks.store.connect`."""


def _resumed(ctx: click.Context, asked: Settings, out: Path | None) -> Start:
    """Where to go on: with the journal's settings, if nothing typed contradicts them."""
    from bsprobe.storage import journal

    folder = out or _newest_unfinished()
    resumed = journal.Journal.resume(folder)
    if resumed is None:
        return Start(settings=asked, folder=folder)
    _, contents = resumed
    before = contents.header.settings
    for option, facet in FACETS.items():
        typed = ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if typed and facet(asked) != facet(before):
            names = {p.name: p.opts[0] for p in ctx.command.params}
            raise UsageError(
                f"{names[option]} differs from the run in {folder}",
                hint="leave it out to go on with that run, or start a new one without --resume",
            )
    if before.processes != asked.processes:
        raise UsageError(
            f"the run in {folder} is of {before.processes} processes, not {asked.processes}",
            hint="start as many, or start a new run without --resume",
        )
    if before.processes > 1:  # every rank has its limit from the command line
        return Start(settings=before, folder=folder, resumed=resumed)
    # A limit that was derived from what was free then must not move while the run goes on.
    limit = contents.header.device.limit_bytes
    fixed = replace(before, device=replace(before.device, memory_limit_bytes=limit))
    return Start(settings=fixed, folder=folder, resumed=resumed)


def _newest_unfinished() -> Path:
    from bsprobe.storage import journal, runfile

    found = [
        path.parent
        for path in _BASE.glob(f"*/{journal.NAME}")
        if not (path.parent / runfile.NAME).exists()
    ]
    if not found:
        raise UsageError(
            f"there is no unfinished run below {_BASE}/", hint="name its folder with --out"
        )
    return max(found, key=lambda folder: (folder / journal.NAME).stat().st_mtime)


def probe(start: Start) -> tuple[Run, Path, dict[Variant, Explanation]]:
    """Open the device and make the run; whatever stops it leaves the journal behind.

    Returns:
        The run, its folder, and where the memory goes: of each predicted recommendation, or of
        the starred one as it was recorded.
    """
    from rich.console import Console

    from bsprobe.engine.predict import predictor_for
    from bsprobe.engine.run import make_run
    from bsprobe.report.run.progress import ExplainedProgress, TrialProgress
    from bsprobe.storage.folders import given_folder, withdrawn_if_refused
    from bsprobe.worker.runner import TrialRunner

    settings = start.settings
    progress = TrialProgress(settings, Console(stderr=True))
    if start.folder is not None and start.resumed is None:
        given_folder(start.folder)
    with (
        progress.opening(),
        _runner(settings, start.connect) as runner,
        predictor_for(settings, runner.ready.device) as predict,
    ):
        folder, log, contents = _opened(start, runner)
        # What several processes ran together is not taken apart.
        alone = runner if isinstance(runner, TrialRunner) else None
        # At once, while the worker still has what it traced for the variant.
        listener = ExplainedProgress(progress, partial(_explain, alone))
        with _resumable(folder), withdrawn_if_refused(folder):
            made = make_run(
                settings,
                runner.run,
                log,
                contents.header,
                folder=folder,
                listener=listener,
                known=contents.trials,
                predict=predict,
            )
            if alone is not None and alone.ready.device.kind == "cuda":
                listener.explanations |= _recorded(made, alone)
    return made, folder, listener.explanations


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say, where the user interrupts, how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; every finished trial is kept",
            hint=f"go on with: {_resuming(folder)}",
        ) from None


def _opened(start: Start, runner: TrialRunner | WorldRunner) -> tuple[Path, Journal, Contents]:
    """The folder and the journal of a run, a new one or the one to go on with."""
    from bsprobe.engine.run import header_of
    from bsprobe.storage.folders import new_folder, run_name
    from bsprobe.storage.journal import Contents, Journal

    device = runner.ready.device
    folder = start.folder or new_folder(_BASE, run_name(device, start.settings))
    if start.resumed is not None:
        log, contents = start.resumed
        _require_same_device(contents.header.device, device, folder)
        return folder, log, contents
    header = header_of(start.settings, runner.ready, _command())
    empty = Contents(header=header, trials=(), complete_bytes=0)
    return folder, Journal.create(folder, header), empty


def _runner(settings: Settings, connect: Connect) -> TrialRunner | WorldRunner:
    """What runs the trials: here alone, or together with the processes that torchrun started."""
    launch = launched(os.environ)
    if launch is not None:
        from bsprobe.worker.ranks.runner import WorldRunner

        return WorldRunner(settings, launch, connect)
    from bsprobe.engine.run import start_runner

    return start_runner(settings)


def _explain(runner: TrialRunner | None, spec: TrialSpec) -> Explanation | None:
    """Where the memory of a trial goes; None where it is measured, not predicted."""
    from bsprobe.records.trials import Source
    from bsprobe.worker.protocol import Explain

    if runner is None or runner.ready.device.source is Source.MEASURED:
        return None
    return runner.explain(Explain(spec=spec), on_phase=lambda _: None)


def _recorded(finished: Run, runner: TrialRunner) -> dict[Variant, Explanation]:
    """Where the memory of the starred row goes, from one more trial that the GPU records.

    Nothing where that cannot be had: the run is finished without it.
    """
    from tempfile import TemporaryDirectory

    from bsprobe.engine.explain import card_like, recorded_side
    from bsprobe.engine.predict import WITHOUT_GPU
    from bsprobe.records.explanations import RECORDED_SNAPSHOT
    from bsprobe.worker.runner import TrialRunner

    best = finished.best
    if best is None or best.trial is None:
        return {}
    spec = replace(best.trial.spec, accumulation_steps=1, evaluation_resolution=None, data=None)
    timeout = finished.settings.trial_timeout_seconds
    click.echo("recording one step of the starred row", err=True)
    try:
        with (
            TrialRunner(
                card_like(finished.device), timeout=timeout, environment=WITHOUT_GPU
            ) as predictor,
            TemporaryDirectory() as folder,
        ):
            side = recorded_side(
                spec,
                recorder=runner,
                predictor=predictor,
                snapshot=Path(folder) / RECORDED_SNAPSHOT,
                on_phase=lambda _: None,
            )
    except BsprobeError as error:
        click.echo(f"warning: no picture of the step: {error}", err=True)
        return {}
    if side.explanation is None:
        click.echo(f"warning: no picture of the step: {side.failure}", err=True)
        return {}
    return {best.variant: side.explanation}


def _require_same_device(before: DeviceInfo, now: DeviceInfo, folder: Path) -> None:
    if before.name == now.name and now.has_memory_of(before):
        return
    change = now.capacity_bytes - before.capacity_bytes
    by = f"{format_bytes(abs(change))} {'more' if change > 0 else 'less'}"
    anew = "start a new run without --resume"
    hint = anew
    if before.name != now.name:
        difference = f"this is {now.name} with {_memory_of(now)}"
    elif before.limit_bytes != now.limit_bytes:
        difference = f"this one has {_memory_of(now)}" + (f", which is {by}" if change else "")
    else:
        difference = f"now there are {by}"
        hint = f"other processes hold memory of this GPU: end them, or {anew}"
        if change > 0:
            hint = f"other processes held memory of this GPU then: {anew}"
    raise FileError(
        f"the run in {folder} was made on {before.name} with {_memory_of(before)}, {difference}",
        hint=hint,
    )


def _memory_of(device: DeviceInfo) -> str:
    if device.limit_bytes is not None:
        return f"a memory limit of {format_bytes(device.limit_bytes)}"
    return f"{format_bytes(device.capacity_bytes)} and no memory limit"


def _write(finished: Run, folder: Path, explanations: Mapping[Variant, Explanation]) -> None:
    from bsprobe.report.explain.plots import write_kinds_plot
    from bsprobe.report.run import markdown, terminal
    from bsprobe.report.run.write import write_report

    click.echo(terminal.render(finished))
    best = finished.best
    if best is not None and best.variant in explanations:
        write_kinds_plot(explanations[best.variant], folder / markdown.EXPLAINED)
    write_report(finished, folder)
    click.echo(f"Wrote {folder}/   Next: read {folder}/report.md")


def _warn(settings: Settings) -> None:
    from bsprobe.report.run.sentences import portrait_warnings

    for warning in portrait_warnings(settings.variants):
        click.echo(f"warning: {warning}", err=True)


def _plan_text(settings: Settings, out: Path | None) -> str:
    from bsprobe.report.run.plan import render

    return render(settings, out)


def _resuming(folder: Path) -> str:
    """The command that goes on with a run."""
    launch = launched(os.environ)
    arguments = f"run --resume --out {shlex.quote(str(folder))}"
    return f"bsprobe {arguments}" if launch is None else launch.command(arguments)


def _command() -> str:
    launch = launched(os.environ)
    arguments = shlex.join(sys.argv[1:])
    return f"bsprobe {arguments}".rstrip() if launch is None else launch.command(arguments)
