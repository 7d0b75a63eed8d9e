"""The command line: one file a command; each parses, calls and prints, nothing else does."""

import os
from importlib import import_module
from typing import Final

import click

from bsprobe._version import __version__
from bsprobe.records.errors import UsageError
from bsprobe.worker.ranks.launch import launched

COMMANDS: Final = (
    "ci",
    "compare",
    "data",
    "explain",
    "gpus",
    "report",
    "run",
    "sample-data",
    "study",
)
"""Each is a function in the file of its name, with an underscore for the hyphen."""

_USAGE = 2


class _Commands(click.Group):
    """Imports a command when it is asked for, so that one does not load what the others need."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # click would raise it, for one line of an error
            click.echo(ctx.get_help(), err=True)
            ctx.exit(_USAGE)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bsprobe")
@click.pass_context
def bsprobe(ctx: click.Context) -> None:
    """Find the batch size a GPU really trains with, and what to train with then."""
    if ctx.invoked_subcommand != "run" and launched(os.environ) is not None:
        raise UsageError(
            f"torchrun started several processes, and bsprobe {ctx.invoked_subcommand} is one",
            hint=f"without torchrun: bsprobe {ctx.invoked_subcommand}",
        )
