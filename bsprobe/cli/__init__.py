"""The command line: one file per command; each computes and prints, nothing else does."""

import os

import click

from bsprobe._version import __version__
from bsprobe.cli.ci import ci
from bsprobe.cli.compare import compare
from bsprobe.cli.data import data
from bsprobe.cli.explain import explain
from bsprobe.cli.gpus import gpus
from bsprobe.cli.report import report
from bsprobe.cli.run import run
from bsprobe.cli.sample_data import sample_data
from bsprobe.cli.study import study
from bsprobe.records.errors import UsageError
from bsprobe.worker.ranks.launch import launched


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bsprobe")
@click.pass_context
def bsprobe(ctx: click.Context) -> None:
    """Find the batch size a GPU really trains with, and what to train with then."""
    if ctx.invoked_subcommand != run.name and launched(os.environ) is not None:
        raise UsageError(
            f"torchrun started several processes, and bsprobe {ctx.invoked_subcommand} is one",
            hint=f"without torchrun: bsprobe {ctx.invoked_subcommand}",
        )


for command in (run, explain, gpus, study, report, compare, ci, data, sample_data):
    bsprobe.add_command(command)
