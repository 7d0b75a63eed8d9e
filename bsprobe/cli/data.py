"""`bsprobe data`: check a data set in the layout of Cityscapes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.named import require_label_ids
from bsprobe.cli.options.paths import PATH, PathType
from bsprobe.cli.printing import show
from bsprobe.records.errors import FileError
from bsprobe.records.printable import single_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bsprobe.training.cityscapes.inspection import FolderReport
    from bsprobe.training.cityscapes.samples import Problem

_COLUMNS = 80
_IGNORED = 255


@click.command("data", cls=Command)
@click.argument("root", type=PATH)
@click.option(
    "--picture",
    type=PathType(dir_okay=False),
    default=None,
    show_default="ROOT-sample.png in the current folder",
    help="PNG file for a picture of one image with its labels.",
)
def data(root: Path, picture: Path | None) -> None:
    """Check the images and labels of a data set.

    ROOT is a folder in the layout of Cityscapes, with leftImg8bit/ and gtFine/. Opens every image
    and lists the images of each split and city, their sizes, the share of pixels of each label,
    and every unusable file with a fix. The exit code is 2 if a file is unusable.
    """
    # Imported here because numpy, Pillow and matplotlib would slow `bsprobe --help` down.
    from rich.console import Console

    from bsprobe.report.progress import Progress
    from bsprobe.training.cityscapes.inspection import inspect_folder

    require_label_ids(root)
    progress = Progress(Console(stderr=True))
    with progress.shown():
        progress.begin(f"reading {root}")
        report = inspect_folder(
            root,
            on_looked_at=lambda done, total: progress.begin(f"read {done} of {total} images"),
        )
    for line in describe(report):
        show(single_line(line))
    if report.first_sample is None:
        show("No picture: there is no usable image with a label.")
    else:
        from bsprobe.training.cityscapes.picture import write_picture

        place = picture or Path(f"{root.resolve().name or 'root'}-sample.png")
        write_picture(report.first_sample, place)
        show(f"Wrote {single_line(str(place))}")
    if report.problems:
        raise _summed_up(report)


def describe(report: FolderReport) -> Iterator[str]:
    """Render the report as plain text; only lines with long paths exceed 80 columns."""
    yield f"{report.root}: {report.image_count} usable images"
    yield ""
    if report.cities:
        yield from _counts(report)
    if report.labels:
        yield from _labels(report)
    if not report.problems:
        yield "No problems."
    for problem in report.problems:
        yield from _problem(problem)


def _counts(report: FolderReport) -> Iterator[str]:
    yield f"{'split':<6} {'city':<28} {'images':>8}"
    for city in report.cities:
        yield f"{city.split:<6} {city.city:<28} {city.images:>8}"
    yield ""
    yield f"{'size (high x wide)':<35} {'images':>8}"
    for size in report.sizes:
        yield f"{size.size!s:<35} {size.images:>8}"
    yield ""


def _labels(report: FolderReport) -> Iterator[str]:
    yield f"{'id':>2}  {'label':<22} {'train id':>8} {'pixels':>10} {'images':>8}"
    for label in report.labels:
        train_id = "ignored" if label.train_id == _IGNORED else str(label.train_id)
        yield (
            f"{label.label_id:>2}  {label.name:<22} {train_id:>8} "
            f"{label.pixel_share * 100:>8.2f} % {label.images:>8}"
        )
    yield f"{'ignored in all':<35} {report.ignored_share * 100:>8.2f} %"
    yield ""


def _problem(problem: Problem) -> Iterator[str]:
    yield str(problem.path)
    for text, first in ((problem.what, "    "), (problem.hint, "    -> ")):
        yield from textwrap.wrap(
            text,
            width=_COLUMNS,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_on_hyphens=False,  # `sample-data` is one word
        )


def _summed_up(report: FolderReport) -> FileError:
    count = len(report.problems)
    problems = "1 problem" if count == 1 else f"{count} problems"
    usable = "nothing usable" if not report.image_count else f"{report.image_count} usable images"
    return FileError(
        f"{report.root} has {problems} and {usable}",
        hint="the list above has a fix for each file",
    )
