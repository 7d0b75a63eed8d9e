"""Programs as users start them and commands in this process, over the package of this checkout."""

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks.checkout import ROOT, python_path
from bsprobe.__main__ import main
from bsprobe.storage.journal import read_journal

__all__ = [
    "ROOT",
    "bsprobe",
    "bsprobe_process",
    "popen",
    "python",
    "python_path",
    "rows",
    "run",
    "start",
]


def run(
    *command: object,
    cwd: Path | str | None = None,
    text: str = "",
    timeout: float = 600,
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with a text on standard input."""
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        input=text,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def python(
    *arguments: object,
    cwd: Path | str | None = None,
    text: str = "",
    timeout: float = 600,
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """`python ARGUMENTS`."""
    return run(sys.executable, *arguments, cwd=cwd, text=text, timeout=timeout, **environment)


def bsprobe(
    *arguments: object, cwd: Path | str = ".", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`bsprobe ARGUMENTS` in this process: entry point, messages and exit code are the real ones.

    Its workers are processes as ever. For what only a process of its own can show (signals, closed
    pipes, limits, what is imported) there are `bsprobe_process` and `start`.
    """
    words = ["bsprobe", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.ExitStack() as undo:
        # Where nothing is a terminal both click and rich write lines of 80 characters.
        undo.enter_context(mock.patch.dict(os.environ, {"COLUMNS": "80", **environment}))
        undo.enter_context(contextlib.chdir(cwd))
        undo.enter_context(mock.patch.object(sys, "argv", words))
        undo.enter_context(mock.patch.object(sys, "stdin", io.StringIO()))
        undo.enter_context(contextlib.redirect_stdout(out))
        undo.enter_context(contextlib.redirect_stderr(err))
        undo.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def bsprobe_process(
    *arguments: object, cwd: Path | str | None = None, timeout: float = 600, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`bsprobe ARGUMENTS` as a process of its own."""
    return python("-m", "bsprobe", *arguments, cwd=cwd, timeout=timeout, **environment)


def popen(
    *command: str, cwd: Path, before_exec: Callable[[], None] | None = None, **environment: str
) -> "subprocess.Popen[str]":
    """Start a command; what it prints is to be read."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before_exec,  # noqa: PLW1509 - limits of the child; no threads run here
    )


def start(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    """Start `bsprobe ARGUMENTS`."""
    return popen(sys.executable, "-m", "bsprobe", *arguments, cwd=cwd)


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for something that a process does before it ends."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that a command has written."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_no_trial_was_repeated(folder: Path) -> None:
    """Hold the journal of a run against a run that goes on where it stopped."""
    made = [(trial.spec, trial.fresh_process) for trial in read_journal(folder).trials]
    assert len(made) == len(set(made))
