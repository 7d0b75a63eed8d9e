"""The type of options and arguments that are paths."""

import os
from pathlib import Path
from typing import Any, Final

import click

from bsprobe.records.errors import UsageError


class PathType(click.Path):
    """A path; an empty text is refused, because Python takes it for the current folder.

    Args:
        dir_okay: False for a path that must not be a folder.
    """

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert a text to a path.

        Args:
            value: The text.
            param: The option or argument.
            ctx: The context of the command.

        Raises:
            UsageError: The text is empty.
        """
        if str(value) == "":
            name = "a path"
            if param is not None:
                is_option = isinstance(param, click.Option)
                name = param.opts[0] if is_option else param.human_readable_name
            raise UsageError(f"{name} is empty", hint="give a path; . is the current folder")
        return Path(os.fsdecode(super().convert(value, param, ctx)))


PATH: Final = PathType()
"""A path to a file or a folder."""
