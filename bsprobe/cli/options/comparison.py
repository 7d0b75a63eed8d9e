"""Options, output and exit code of the commands that compare two runs."""

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
from bsprobe.cli.printing import show, show_commands
from bsprobe.records.errors import BsprobeError, FileError
from bsprobe.records.runs import SCHEMA_VERSION, Run
from bsprobe.storage.codec import to_json
from bsprobe.storage.files import file_errors

REGRESSED = 1
"""Exit code if a metric regressed."""
_SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable of GitHub Actions with the file for the summary of a job."""
_DEFAULTS = " ".join(f"{each.metric}:{each.describe()}" for each in DEFAULT_THRESHOLDS)


class Format(StrEnum):
    """Output formats of a comparison."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    """The text, annotations for the pull request, and a job summary."""


def comparison_options(command: Command) -> Command:
    """Add the options of a comparison to a command."""
    for option in (
        click.option(
            "--format",
            "output",
            type=click.Choice([str(kind) for kind in Format]),
            default=str(Format.TEXT),
            show_default=True,
            help="Output format. github adds annotations, and a summary in $GITHUB_STEP_SUMMARY.",
        ),
        click.option(
            "--fail-on",
            "thresholds",
            type=parse_threshold,
            multiple=True,
            metavar="METRIC:AMOUNT",
            help="Largest allowed regression of a metric: a share (peak:3%), bytes "
            "(peak:200MiB), images (max-batch:2) or images/s (throughput:5). Repeatable. Metrics: "
            f"{', '.join(str(metric) for metric in Metric)}.  [default: {_DEFAULTS}]",
        ),
    ):
        command = option(command)
    return command


def compare_and_show(
    runs: Callable[[], tuple[Run, Run]], thresholds: tuple[Threshold, ...], output: str
) -> int:
    """Compare two runs and print the comparison.

    Args:
        runs: Loads the baseline and the run.
        thresholds: Allowed changes; empty for the defaults.
        output: A value of `Format`. With `github`, an error is printed as an annotation too.

    Returns:
        The exit code: 0, or `REGRESSED`.

    Raises:
        BsprobeError: The runs cannot be loaded or compared.
    """
    try:
        require_distinct(thresholds)
        comparison = compare(*runs(), thresholds or DEFAULT_THRESHOLDS)
    except BsprobeError as error:
        if output == Format.GITHUB:
            from bsprobe.report.compare.comparison import error_annotation

            show_commands(error_annotation(error))
        raise
    _show(comparison, Format(output))
    return REGRESSED if comparison.failing else 0


def _show(comparison: Comparison, output: Format) -> None:
    from bsprobe.report.compare import comparison as texts
    from bsprobe.report.escaping import json_text

    if output is Format.JSON:
        body = {"schema_version": SCHEMA_VERSION, **to_json(comparison)}
        show(json_text(body))
        return
    show(texts.render(comparison).removesuffix("\n"))
    if output is Format.GITHUB:
        show_commands(texts.annotations(comparison))
        if summary := os.environ.get(_SUMMARY):
            path = Path(summary)
            if path.is_fifo():  # opening it would wait for a reader
                raise FileError(f"{_SUMMARY}: {path} is a pipe", hint="name a file, or unset it")
            with file_errors(path), path.open("a", encoding="utf-8") as file:
                file.write(texts.markdown(comparison))
