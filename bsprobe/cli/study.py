"""`bsprobe study`: train briefly with several batches and compare what they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.named import (
    require_device,
    require_file,
    require_images,
    require_named,
)
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.resume import require_same_settings
from bsprobe.cli.options.study import STUDY_FACETS, study_options, study_settings_from
from bsprobe.cli.options.values import typed_command, wrote
from bsprobe.cli.printing import show
from bsprobe.records.errors import UsageError
from bsprobe.worker.required import require_report_packages

if TYPE_CHECKING:
    from bsprobe.study.records import StudySettings
    from bsprobe.study.run import Start


@click.command(cls=Command)
@study_options
@click.option(
    "--out",
    type=PATH,
    help="Folder for the results, new or empty.  [default: reports/study-DEVICE-MODEL-SIZE]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the unfinished study in --out, or the newest one below reports/, from its last "
    "checkpoint.  [default: off]",
)
@click.pass_context
def study(ctx: click.Context, /, *, out: Path | None, resume: bool, **given: Any) -> None:
    """Train briefly with several batches and compare the results.

    All trainings see the same images in the same order. The learning rate is scaled with the batch;
    a batch that does not fit is accumulated. The recommendation is based on validation loss, mean
    IoU, the gradient noise scale and the throughput of the data loader.

    Args:
        ctx: The context of the command.
        out: Folder for the results; None for a new one below reports/.
        resume: Continue an unfinished study.
        **given: The options of `study_options`.
    """
    asked = study_settings_from(given)
    start = _start(ctx, asked, out, resume=resume)
    if not start.settings.data.root:
        raise UsageError(
            "--data is missing",
            hint="add --data ROOT; `bsprobe sample-data DIR` draws a data set for trying it out",
        )
    _require_there(start.settings)
    require_report_packages()
    _study(start)


def _start(ctx: click.Context, asked: StudySettings, out: Path | None, *, resume: bool) -> Start:
    """The start of the study; a resumed one takes its settings from the journal.

    Raises:
        UsageError: A typed option differs from the journal.
    """
    from bsprobe.study.run import Start, begun_study

    start = Start(settings=asked, folder=out, command=typed_command())
    if not resume:
        return start
    folder, journal, contents = begun_study(out)
    before = contents.header.settings
    require_same_settings(ctx, STUDY_FACETS, asked, before, f"study in {folder}")
    return replace(start, settings=before, folder=folder, resumed=(journal, contents))


def _require_there(settings: StudySettings) -> None:
    """Check the device, the network, the weights and the images by name."""
    require_device(settings.device)
    require_named([settings.variant])
    if settings.weights is not None:
        require_file("--weights", Path(settings.weights))
    require_images(settings.data, ("train", "val"))


def _study(start: Start) -> None:
    """Make the study with progress on standard error; print and write the result."""
    from rich.console import Console

    from bsprobe.study.report import terminal
    from bsprobe.study.report.progress import StudyProgress
    from bsprobe.study.report.write import write_study_report
    from bsprobe.study.run import run
    from bsprobe.study.studyfile import save_study

    progress = StudyProgress(start.settings, Console(stderr=True))
    with progress.shown():
        finished, folder = run(start, listener=progress)
    show(terminal.render(finished))
    save_study(finished, folder)
    write_study_report(finished, folder)
    show(wrote(folder, "report.md"))
