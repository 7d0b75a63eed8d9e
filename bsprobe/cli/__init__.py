"""The command line: one file per command, which parses options, calls the engine and prints."""

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
"""Names of the commands; `sample-data` is the function `sample_data` in `sample_data.py`."""


class _Commands(click.Group):
    """A group that imports a command on first use, so that `--help` stays fast."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click's no_args_is_help prints to standard error and exits with 2.
        return super().parse_args(ctx, args or ["--help"])

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
    """Find the largest training batch that fits a GPU.

    Start with `bsprobe run`: it measures on the GPU of this machine. With --gpu NAME, or on a
    machine without a GPU, it predicts.
    """
    if ctx.invoked_subcommand != "run" and launched(os.environ) is not None:
        raise UsageError(
            f"bsprobe {ctx.invoked_subcommand} cannot run under torchrun",
            hint=f"start it without torchrun: bsprobe {ctx.invoked_subcommand}",
        )
