"""Write `docs/commands.md` from the `--help` of the commands.

python docs/commands.py           # write it
python docs/commands.py --check   # exit with 1 if it is out of date
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bsprobe.cli import bsprobe

PAGE = Path(__file__).with_name("commands.md")
AGAIN = "python docs/commands.py"


def page() -> str:
    """Return the whole page."""
    context = click.Context(bsprobe, info_name="bsprobe", max_content_width=10_000)
    head = (
        "# Commands\n\n"
        f"Written by `{AGAIN}` from `--help`; change the text there. Exit codes: 0 fine, "
        "1 a comparison found a regression, 2 usage, input or environment, 130 interrupted, "
        "101 a bug in bsprobe."
    )
    return "\n\n".join([head, *sections(bsprobe, context)]) + "\n"


def sections(group: click.Group, context: click.Context) -> Iterator[str]:
    """Yield a section for each command, in the order of `--help`."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101 - its name was listed
        inner = click.Context(command, info_name=name, parent=context, max_content_width=10_000)
        yield section(command, inner)
        if isinstance(command, click.Group):
            yield from sections(command, inner)


def section(command: click.Command, context: click.Context) -> str:
    """Return usage, description and options of a command.

    Args:
        command: The command.
        context: The context of the command.
    """
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [
        f"## {context.command_path}",
        f"```sh\n{usage}\n```",
        inspect.cleandoc(command.help or ""),
    ]
    options = [param for param in command.params if isinstance(param, click.Option)]
    records = [option.get_help_record(context) for option in options]
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in filter(None, records)]
    if rows:
        parts.append("\n".join(["| option | |", "| --- | --- |", *rows]))
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.name} is out of date; run: {AGAIN}")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
