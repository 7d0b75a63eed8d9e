"""Pages in markdown: their commands, blocks and links."""

import re
import shlex
from pathlib import Path

import click

from bsprobe.cli import bsprobe


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language, without the newline at their ends."""
    return blocks_in(page.read_text(encoding="utf-8"), language)


def blocks_in(text: str, language: str) -> list[str]:
    """The code blocks of one language in a part of a page."""
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return [block.rstrip("\n") for block in found]


def commands_of(page: Path) -> list[str]:
    """The lines of shell blocks, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [stripped for line in lines if (stripped := re.sub(r"\s+# .*", "", line).strip())]


def shown(page: Path) -> list[str]:
    """Blocks of output."""
    return blocks(page, "text")


def links(page: Path) -> list[Path]:
    """Files of this repository that a page links to or shows as a picture."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    return [page.parent / link for link in found if "://" not in link]


def bsprobe_lines(text: str) -> list[list[str]]:
    """The words after `bsprobe` of every line that runs it."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"(?:^|&& |/)bsprobe ([a-z].*)$", joined, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def parse(words: list[str]) -> None:
    """Parse a command line as bsprobe would; nothing is run."""
    name, *arguments = words
    command = bsprobe.get_command(click.Context(bsprobe), name)
    if command is None:
        raise click.UsageError(f"no command {name}")
    command.make_context(name, arguments)
