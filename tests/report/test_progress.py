"""Progress is erased from a terminal; a pipe gets each line once."""

import io
import re

import pytest
from rich.console import Console

from bsprobe.report.progress import Progress

CONTROL = re.compile(r"\x1b\[([0-9?;]*)([A-Za-z])")


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=80)


def left_on(console: Console) -> list[str]:
    """Return the lines that a terminal shows after all cursor movements and clearing."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9?;]*[A-Za-z]|\r|\n)", written(console)):
        control = CONTROL.fullmatch(part)
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control and control[2] == "A":
            row -= int(control[1])
        elif control and control[2] == "K":
            lines[row] = ""
        elif not control and part != "\r":
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


def written(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    return text


def steps(progress: Progress) -> None:
    progress.on_stage("opening the card")
    progress.log("[1/1] fp32 / batch")
    progress.begin("  batch 1")
    progress.on_phase("tracing")
    progress.log("  batch 1 ok")


def test_a_terminal_shows_the_log_and_keeps_nothing_of_it() -> None:
    console = terminal()
    progress = Progress(console)
    with progress.shown():
        steps(progress)
    assert "batch 1 ok" in written(console)
    assert left_on(console) == []


def interrupted(progress: Progress) -> None:
    with progress.shown():
        steps(progress)
        raise KeyboardInterrupt


def test_a_terminal_keeps_the_log_of_what_an_error_ended() -> None:
    console = terminal()
    progress = Progress(console)
    with pytest.raises(KeyboardInterrupt):
        interrupted(progress)
    assert left_on(console) == ["[1/1] fp32 / batch", "  batch 1 ok"]


def test_a_terminal_keeps_warnings() -> None:
    console = terminal()
    progress = Progress(console)
    with progress.shown():
        steps(progress)
        progress.warn("warning: no picture")
    assert left_on(console) == ["warning: no picture"]


def test_a_pipe_gets_each_entry_once_and_no_short_activity() -> None:
    console = Console(file=io.StringIO(), width=20)
    progress = Progress(console)
    with progress.shown():
        steps(progress)
    assert written(console).splitlines() == [
        "opening the card",
        "[1/1] fp32 / batch",
        "  batch 1 ok",
    ]


def test_a_pipe_hears_of_what_takes_long_now_and_then() -> None:
    console = Console(file=io.StringIO())
    seconds = 0.0
    progress = Progress(console, clock=lambda: seconds)
    for each in range(60):
        seconds = float(each)
        progress.begin(f"predicted {each} of 60")
    assert written(console).splitlines() == [f"predicted {each} of 60" for each in (15, 30, 45)]
