"""Printing of the commands; no other module of the command line prints."""

import sys
from typing import TextIO

import click

from bsprobe.report.escaping import encodable, terminal


def show(text: str) -> None:
    """Print text and a new line on standard output, without control characters."""
    click.echo(terminal(text, _encoding(sys.stdout)))


def show_title(text: str) -> None:
    """Print a line on standard output, bold on a terminal."""
    click.echo(click.style(terminal(text, _encoding(sys.stdout)), bold=True))  # unstyled if piped


def show_commands(lines: str) -> None:
    """Print workflow commands for GitHub, lines whose parts are escaped already."""
    click.echo(encodable(lines, _encoding(sys.stdout)), nl=False)


def show_on_stderr(text: str) -> None:
    """Print text and a new line on standard error, without control characters."""
    click.echo(terminal(text, _encoding(sys.stderr)), err=True)


def _encoding(stream: TextIO | None) -> str | None:
    """The encoding of a stream; a process may have been started without it."""
    return None if stream is None else stream.encoding
