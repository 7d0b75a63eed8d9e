"""The rule of `--resume`: what is typed may not contradict what was begun."""

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
    """Refuse an option that was typed and differs from what was begun.

    Args:
        ctx: Of the command.
        facets: The part of the settings that each option decides.
        asked: The settings of the command line.
        before: The settings of the journal.
        what: Names what was begun: `run in out`.

    Raises:
        UsageError: One differs.
    """
    for option, facet in facets.items():
        typed = ctx.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if typed and facet(asked) != facet(before):
            names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
            noun = what.partition(" ")[0]
            raise UsageError(
                f"{names[option]} differs from the {what}",
                hint=f"leave it out to go on with that {noun}, or start a new one without --resume",
            )
