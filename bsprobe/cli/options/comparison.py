"""What commands that compare two runs share: their options, their output, their exit code."""

import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import click

from bsprobe.analysis.compare import Comparison, compare
from bsprobe.analysis.thresholds import (
    DEFAULT_THRESHOLDS,
    Metric,
    Threshold,
    parse_threshold,
    require_distinct,
)
from bsprobe.cli.options.values import Command
from bsprobe.records.errors import BsprobeError
from bsprobe.records.runs import SCHEMA_VERSION, Run
from bsprobe.storage.codec import to_json
from bsprobe.storage.files import file_errors

REGRESSED = 1
"""The exit code of a comparison that failed."""
_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The file that GitHub shows as markdown below a job."""
_DEFAULTS = " ".join(f"{each.metric}:{each.describe()}" for each in DEFAULT_THRESHOLDS)


class Format(StrEnum):
    """How a comparison is printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    """The text, annotations of the pull request, and a summary of the job."""


def comparison_options(command: Command) -> Command:
    """Give a command the options of a comparison."""
    for option in (
        click.option(
            "--format",
            "output",
            type=click.Choice([str(kind) for kind in Format]),
            default=str(Format.TEXT),
            show_default=True,
            help="github: also annotations, and markdown in $GITHUB_STEP_SUMMARY.",
        ),
        click.option(
            "--fail-on",
            "thresholds",
            type=parse_threshold,
            multiple=True,
            metavar="METRIC:AMOUNT",
            help="How much worse than the baseline is a regression: a share (3%), or bytes "
            "(200MiB), images of a batch, images/s. Repeat it for each metric: "
            f"{', '.join(str(metric) for metric in Metric)}.  [default: {_DEFAULTS}]",
        ),
    ):
        command = option(command)
    return command


def compare_and_show(
    runs: Callable[[], tuple[Run, Run]], thresholds: tuple[Threshold, ...], output: str
) -> int:
    """Compare the two runs (baseline, run), print it, and return the exit code.

    Raises:
        BsprobeError: There is nothing to compare; on GitHub it is an annotation as well.
    """
    try:
        require_distinct(thresholds)
        comparison = compare(*runs(), thresholds or DEFAULT_THRESHOLDS)
    except BsprobeError as error:
        if output == Format.GITHUB:
            from bsprobe.report.compare.comparison import error_annotation

            click.echo(error_annotation(error), nl=False)
        raise
    _show(comparison, Format(output))
    return REGRESSED if comparison.failing else 0


def _show(comparison: Comparison, output: Format) -> None:
    from bsprobe.report.compare import comparison as texts

    if output is Format.JSON:
        body = {"schema_version": SCHEMA_VERSION, **to_json(comparison)}
        click.echo(json.dumps(body, indent=1, allow_nan=False))
        return
    click.echo(texts.render(comparison), nl=False)
    if output is Format.GITHUB:
        click.echo(texts.annotations(comparison), nl=False)
        if summary := os.environ.get(_SUMMARY):
            path = Path(summary)
            with file_errors(path), path.open("a", encoding="utf-8") as file:
                file.write(texts.markdown(comparison))
