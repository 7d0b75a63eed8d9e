"""Printing of the commands; no other module of the command line prints."""

import sys

import click

from bsprobe.report.escaping import encodable, terminal


def show(text: str) -> None:
    """Print text and a new line on standard output, without control characters."""
    click.echo(terminal(text, sys.stdout.encoding))


def show_title(text: str) -> None:
    """Print a line on standard output, bold on a terminal."""
    click.echo(click.style(terminal(text, sys.stdout.encoding), bold=True))  # unstyled if piped


def show_commands(lines: str) -> None:
    """Print workflow commands for GitHub, lines whose parts are escaped already."""
    click.echo(encodable(lines, sys.stdout.encoding), nl=False)


def show_on_stderr(text: str) -> None:
    """Print text and a new line on standard error, without control characters."""
    click.echo(terminal(text, sys.stderr.encoding), err=True)
