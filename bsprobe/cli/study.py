"""`bsprobe study`: train with several batches, briefly and really, and see which learns."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from bsprobe.cli.options.study import STUDY_FACETS, study_options, study_settings_from
from bsprobe.records.errors import FileError, InterruptedRunError, UsageError
from bsprobe.study.records import Study, StudySettings
from bsprobe.worker.required import require_report_packages

_BASE = Path("reports")


@click.command()
@study_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; new or empty.  [default: reports/study-DEVICE-MODEL-SIZE]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the unfinished study in --out, from its last checkpoint.  [default: off]",
)
@click.pass_context
def study(ctx: click.Context, /, *, out: Path | None, resume: bool, **given: Any) -> None:
    """Train with several effective batches and compare what they learn.

    Every training sees the same images in the same order; the learning rate follows the batch, a
    batch that does not fit is accumulated. Validation loss and mean IoU, the gradient noise scale
    and the data loader decide what is recommended.
    """
    asked = study_settings_from(given)
    start = _resumed(ctx, asked, out) if resume else _Start(settings=asked, folder=out)
    if not start.settings.data.root:
        raise UsageError(
            "--data is missing: a study needs images to learn from",
            hint="draw some with `bsprobe sample-data DIR`, then add --data DIR",
        )
    require_report_packages()
    finished, folder = _study(start)
    _write(finished, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a study begins: from nothing, or from a journal."""

    settings: StudySettings
    folder: Path | None
    resumed: Any = None
    """The open `study_journal.StudyJournal` and its contents, or None."""


def _resumed(ctx: click.Context, asked: StudySettings, out: Path | None) -> _Start:
    """Where to go on: with the journal's settings, if nothing typed contradicts them."""
    from bsprobe.study.journal import StudyJournal

    if out is None:
        raise UsageError("--resume does not say which study", hint="add --out FOLDER")
    resumed = StudyJournal.resume(out)
    if resumed is None:
        return _Start(settings=asked, folder=out)
    _, contents = resumed
    before = contents.header.settings
    for option, facet in STUDY_FACETS.items():
        typed = ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if typed and facet(asked) != facet(before):
            names = {p.name: p.opts[0] for p in ctx.command.params}
            raise UsageError(
                f"{names[option]} differs from the study in {out}",
                hint="leave it out to go on with that study, or start a new one without --resume",
            )
    return _Start(settings=before, folder=out, resumed=resumed)


def _study(start: _Start) -> tuple[Study, Path]:
    """Open the device and make the trainings; whatever stops it leaves the journal behind."""
    from rich.console import Console

    from bsprobe.storage.folders import given_folder, new_folder, withdrawn_if_refused
    from bsprobe.study.conduct import Studying
    from bsprobe.study.journal import StudyHeader, StudyJournal
    from bsprobe.study.records import SCHEMA_VERSION
    from bsprobe.study.report.progress import StudyProgress
    from bsprobe.study.report.write import study_name
    from bsprobe.study.runner import StudyRunner
    from bsprobe.worker.environment import describe_environment

    settings = start.settings
    progress = StudyProgress(settings, Console(stderr=True))
    if start.folder is not None and start.resumed is None:
        given_folder(start.folder)
    with (
        progress.opening(),
        StudyRunner(
            _request(start),
            variant=settings.variant,
            data=settings.data,
            timeout=settings.training_timeout_seconds,
        ) as trainer,
    ):
        device = trainer.ready.device
        folder = start.folder or new_folder(_BASE, study_name(device, settings))
        known = ()
        if start.resumed is None:
            header = StudyHeader(
                schema_version=SCHEMA_VERSION,
                environment=describe_environment(trainer.ready, _command()),
                device=device,
                settings=settings,
            )
            log = StudyJournal.create(folder, header)
        else:
            log, contents = start.resumed
            header, known = contents.header, contents.trainings
            _require_same_device(header.device, device, folder)
        try:
            with withdrawn_if_refused(folder), log:
                made = Studying(
                    settings,
                    trainer=trainer,
                    device=header.device,
                    journal=log,
                    folder=folder,
                    listener=progress,
                    known=known,
                ).run(header.environment)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; finished trainings and the last checkpoint are kept",
                hint=f"go on with: bsprobe study --resume --out {shlex.quote(str(folder))}",
            ) from None
    return made, folder


def _request(start: _Start) -> Any:
    """The device to open; a limit that was derived from what was free then must not move."""
    if start.resumed is None:
        return start.settings.device
    limit = start.resumed[1].header.device.limit_bytes
    return replace(start.settings.device, memory_limit_bytes=limit)


def _require_same_device(before: Any, now: Any, folder: Path) -> None:
    if before.name != now.name:
        raise FileError(
            f"the study in {folder} was made on {before.name}, this is {now.name}",
            hint="start a new study without --resume",
        )


def _write(finished: Study, folder: Path) -> None:
    from bsprobe.study.report import terminal
    from bsprobe.study.report.write import write_study_report
    from bsprobe.study.studyfile import save_study

    save_study(finished, folder)
    click.echo(terminal.render(finished))
    write_study_report(finished, folder)
    click.echo(f"Wrote {folder}/   Next: read {folder}/report.md")


def _command() -> str:
    return shlex.join(["bsprobe", *sys.argv[1:]])
