"""The check of `--resume`: typed options must equal those of the journal."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import click

from bsprobe.records.errors import UsageError

Settings = TypeVar("Settings")


def require_same_settings(
    ctx: click.Context,
    facets: Mapping[str, Callable[[Settings], object]],
    asked: Settings,
    before: Settings,
    what: str,
) -> None:
    """Compare the typed options with the settings of a journal.

    Args:
        ctx: The context of the command.
        facets: By parameter, the part of the settings that it decides.
        asked: The settings of the command line.
        before: The settings of the journal.
        what: Name of the resumed work, for example `run in out`.

    Raises:
        UsageError: A typed option differs.
    """
    for option, facet in facets.items():
        typed = ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if typed and facet(asked) != facet(before):
            names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
            noun = what.partition(" ")[0]
            raise UsageError(
                f"{names[option]} differs from the {what}",
                hint=f"leave {names[option]} out to continue that {noun}, or start a new one "
                "without --resume",
            )
