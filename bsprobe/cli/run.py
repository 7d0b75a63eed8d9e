"""`bsprobe run`: probe a matrix of variants and write what to train with."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from bsprobe.cli.options import axis_options, model_names, positive_number, resolutions
from bsprobe.errors import FileError, InterruptedRunError, UsageError
from bsprobe.recommend import LearningRateRule
from bsprobe.records import DataSource, DeviceRequest, Run, Settings, Target
from bsprobe.units import parse_bytes, parse_resolution
from bsprobe.variants import AXES, matrix

_LARGEST_BATCH = 2**20
_COUNT = click.IntRange(min=1, max=_LARGEST_BATCH)
_BASE = Path("reports")


@click.command()
@click.option(
    "--model",
    "models",
    type=model_names,
    metavar="LIST",
    default="deeplabv2-resnet101",
    show_default=True,
    help="deeplabv2-resnet101, deeplabv2-resnet50, or torchvision:NAME for one of torchvision's "
    "segmentation models.",
)
@click.option(
    "--resolution",
    "resolutions",
    type=resolutions,
    metavar="LIST",
    default="512x1024",
    show_default=True,
    help="Image sizes as HEIGHTxWIDTH, or cityscapes (1024x2048), cityscapes-half (512x1024).",
)
@axis_options
@click.option(
    "--device",
    metavar="cuda[:N]|cpu",
    help="Where to run.  [default: the GPU of this machine]",
)
@click.option(
    "--memory-limit",
    type=parse_bytes,
    metavar="SIZE",
    help="Let the device answer as one with this much memory, for example 11GiB: it caps the "
    "capacity, not the architecture.  [default: all there is]",
)
@click.option(
    "--target-batch",
    type=_COUNT,
    metavar="N",
    default=10,
    show_default=True,
    help="Effective batch to train with; reached by accumulation where it does not fit.",
)
@click.option(
    "--base-lr",
    type=positive_number("--base-lr"),
    metavar="RATE",
    default=2.5e-4,
    show_default=True,
    help="Learning rate of the recipe at --base-batch.",
)
@click.option(
    "--base-batch",
    type=_COUNT,
    metavar="N",
    default=10,
    show_default=True,
    help="Effective batch that --base-lr belongs to.",
)
@click.option(
    "--base-updates",
    type=click.IntRange(1, 10**9),
    metavar="N",
    default=20_000,
    show_default=True,
    help="Optimizer updates of the recipe; scaled so that the images seen stay constant.",
)
@click.option(
    "--lr-rule",
    type=click.Choice([str(rule) for rule in LearningRateRule]),
    help="How the learning rate follows the batch.  [default: linear for sgd, sqrt for adamw]",
)
@click.option(
    "--headroom",
    type=positive_number("--headroom", below=1),
    metavar="SHARE",
    default=0.05,
    show_default=True,
    help="Share of the memory, in bytes, that the safe batch leaves free.",
)
@click.option(
    "--max-batch",
    type=_COUNT,
    metavar="N",
    default=4096,
    show_default=True,
    help="Never try a larger batch than this.",
)
@click.option(
    "--steps",
    type=click.IntRange(3, 1000),
    metavar="N",
    default=3,
    show_default=True,
    help="Measured steps of each trial.",
)
@click.option(
    "--warmup-steps",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=1,
    show_default=True,
    help="Steps before the measured ones.",
)
@click.option(
    "--data",
    "data_root",
    type=click.Path(path_type=Path),
    metavar="ROOT",
    help="Feed the trials with real images: a folder in Cityscapes' layout.  [default: synthetic]",
)
@click.option(
    "--subset",
    type=click.IntRange(1, 10**9),
    metavar="N",
    help="With --data: use only the first N images.  [default: all]",
)
@click.option("--evaluate", is_flag=True, help="Also probe the evaluation pass.  [default: off]")
@click.option(
    "--evaluate-at",
    type=parse_resolution,
    metavar="HEIGHTxWIDTH",
    help="With --evaluate: size of the predictions.  [default: 1024x2048, Cityscapes' labels]",
)
@click.option(
    "--trial-timeout",
    type=positive_number("--trial-timeout"),
    metavar="SECONDS",
    default=900,
    show_default=True,
    help="Give a trial up after this long.",
)
@click.option(
    "--time-limit",
    type=positive_number("--time-limit"),
    metavar="SECONDS",
    help="Stop searching a variant once its trials took this long.  [default: no limit]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of the synthetic images.",
)
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
    asked = _settings(given)
    if dry_run:
        click.echo(_plan_text(asked, out))
        return
    start = _resumed(ctx, asked, out) if resume else _Start(settings=asked, folder=out)
    _warn(start.settings)
    finished, folder = _probe(start)
    _write(finished, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a run begins: from nothing, or from a journal."""

    settings: Settings
    folder: Path | None
    resumed: Any = None
    """The open `journal.Journal` and its `journal.Contents`, or None."""


def _settings(given: Mapping[str, Any]) -> Settings:
    """The options as settings."""
    if given["evaluate_at"] is not None and not given["evaluate"]:
        raise UsageError("--evaluate-at does nothing without --evaluate", hint="add --evaluate")
    if given["subset"] is not None and given["data_root"] is None:
        raise UsageError("--subset does nothing without --data", hint="add --data ROOT")
    native = parse_resolution("cityscapes") if given["evaluate"] else None
    return Settings(
        variants=matrix(
            models=given["models"],
            resolutions=given["resolutions"],
            choices={axis.field: given[axis.field] for axis in AXES},
        ),
        device=DeviceRequest(device=given["device"], memory_limit_bytes=given["memory_limit"]),
        target=Target(
            batch=given["target_batch"],
            base_batch=given["base_batch"],
            base_learning_rate=given["base_lr"],
            base_updates=given["base_updates"],
            lr_rule=given["lr_rule"],
            headroom=given["headroom"],
        ),
        max_batch=given["max_batch"],
        trial_timeout_seconds=given["trial_timeout"],
        time_limit_seconds=given["time_limit"],
        warmup_steps=given["warmup_steps"],
        measured_steps=given["steps"],
        evaluation_resolution=given["evaluate_at"] or native,
        data=_data_source(given["data_root"], given["subset"]),
        seed=given["seed"],
    )


def _data_source(root: Path | None, subset: int | None) -> DataSource | None:
    """Where the images are; absolute, for a resumed run may be started elsewhere."""
    return None if root is None else DataSource(root=str(root.resolve()), subset=subset)


_FACETS: dict[str, Callable[[Settings], object]] = {
    "models": lambda s: {v.model for v in s.variants},
    "resolutions": lambda s: {v.resolution for v in s.variants},
    "device": lambda s: s.device.device,
    "memory_limit": lambda s: s.device.memory_limit_bytes,
    "target_batch": lambda s: s.target.batch,
    "base_batch": lambda s: s.target.base_batch,
    "base_lr": lambda s: s.target.base_learning_rate,
    "base_updates": lambda s: s.target.base_updates,
    "lr_rule": lambda s: s.target.lr_rule,
    "headroom": lambda s: s.target.headroom,
    "max_batch": lambda s: s.max_batch,
    "steps": lambda s: s.measured_steps,
    "warmup_steps": lambda s: s.warmup_steps,
    "evaluate": lambda s: s.evaluation_resolution is not None,
    "evaluate_at": lambda s: s.evaluation_resolution,
    "trial_timeout": lambda s: s.trial_timeout_seconds,
    "time_limit": lambda s: s.time_limit_seconds,
    "data_root": lambda s: s.data and s.data.root,
    "subset": lambda s: s.data and s.data.subset,
    "seed": lambda s: s.seed,
} | {
    axis.field: lambda s, field=axis.field: {getattr(v, field) for v in s.variants} for axis in AXES
}
"""What each option decides, for telling whether a resumed run was asked for the same."""


def _resumed(ctx: click.Context, asked: Settings, out: Path | None) -> _Start:
    """Where to go on: with the journal's settings, if nothing typed contradicts them."""
    from bsprobe import journal

    folder = out or _newest_unfinished()
    resumed = journal.Journal.resume(folder)
    if resumed is None:
        return _Start(settings=asked, folder=folder)
    _, contents = resumed
    before = contents.header.settings
    for option, facet in _FACETS.items():
        typed = ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if typed and facet(asked) != facet(before):
            names = {p.name: p.opts[0] for p in ctx.command.params}
            raise UsageError(
                f"{names[option]} differs from the run in {folder}",
                hint="leave it out to go on with that run, or start a new one without --resume",
            )
    # A limit that was derived from what was free then must not move while the run goes on.
    limit = contents.header.device.limit_bytes
    fixed = replace(before, device=replace(before.device, memory_limit_bytes=limit))
    return _Start(settings=fixed, folder=folder, resumed=resumed)


def _newest_unfinished() -> Path:
    from bsprobe import journal, runfile

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


def _probe(start: _Start) -> tuple[Run, Path]:
    """Open the device and make the run; whatever stops it leaves the journal behind."""
    from rich.console import Console

    from bsprobe import journal, probing
    from bsprobe.environment import describe_environment
    from bsprobe.records import SCHEMA_VERSION
    from bsprobe.report.folder import given_folder, new_folder, run_name
    from bsprobe.report.progress import TrialProgress
    from bsprobe.runner import TrialRunner

    settings = start.settings
    console = Console(stderr=True)
    progress = TrialProgress(settings, console)
    if start.folder is not None and start.resumed is None:
        given_folder(start.folder)
    with (
        progress.opening(),
        TrialRunner(
            settings.device,
            models=tuple(dict.fromkeys(v.model for v in settings.variants)),
            data=settings.data,
            timeout=settings.trial_timeout_seconds,
        ) as runner,
    ):
        device = runner.ready.device
        folder = start.folder or new_folder(_BASE, run_name(device, settings))
        known = ()
        if start.resumed is None:
            header = journal.Header(
                schema_version=SCHEMA_VERSION,
                environment=describe_environment(runner.ready, _command()),
                device=device,
                settings=settings,
            )
            log = journal.Journal.create(folder, header)
        else:
            log, contents = start.resumed
            header, known = contents.header, contents.trials
            _require_same_device(header.device, device, folder)
        try:
            with log:
                made = probing.Probing(
                    settings,
                    run_trial=runner.run,
                    device=header.device,
                    journal=log,
                    listener=progress,
                    known=known,
                ).run(header.environment)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; every finished trial is kept",
                hint=f"go on with: bsprobe run --resume --out {shlex.quote(str(folder))}",
            ) from None
    return made, folder


def _require_same_device(before: Any, now: Any, folder: Path) -> None:
    if (before.name, before.capacity_bytes) != (now.name, now.capacity_bytes):
        raise FileError(
            f"the run in {folder} was made on {before.name} with {before.capacity_bytes} bytes, "
            f"this is {now.name} with {now.capacity_bytes}",
            hint="start a new run without --resume",
        )


def _write(finished: Run, folder: Path) -> None:
    from bsprobe.report import terminal
    from bsprobe.report.write import write_report
    from bsprobe.runfile import save_run

    save_run(finished, folder)
    click.echo(terminal.render(finished))
    write_report(finished, folder)
    click.echo(f"Wrote {folder}/   Next: read {folder}/report.md")


def _warn(settings: Settings) -> None:
    from bsprobe.report.sentences import portrait_warnings

    for warning in portrait_warnings(settings.variants):
        click.echo(f"warning: {warning}", err=True)


def _plan_text(settings: Settings, out: Path | None) -> str:
    from bsprobe.report.plan import render

    return render(settings, out)


def _command() -> str:
    return shlex.join(["bsprobe", *sys.argv[1:]])
