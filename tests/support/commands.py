"""Programs as users start them, and commands in this process, with the package of this checkout."""

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
    """Run `python ARGUMENTS`."""
    return run(sys.executable, *arguments, cwd=cwd, text=text, timeout=timeout, **environment)


def bsprobe(
    *arguments: object, cwd: Path | str = ".", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `bsprobe ARGUMENTS` in this process, with the real entry point, messages and exit code.

    Its workers are real processes. Use `bsprobe_process` and `start` for behaviour that needs a
    separate process (signals, closed pipes, limits, imports).
    """
    words = ["bsprobe", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.ExitStack() as undo:
        # Without a terminal both click and rich write lines of 80 characters.
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
    """Run `bsprobe ARGUMENTS` as a separate process."""
    return python("-m", "bsprobe", *arguments, cwd=cwd, timeout=timeout, **environment)


def popen(
    *command: str, cwd: Path, before_exec: Callable[[], None] | None = None, **environment: str
) -> "subprocess.Popen[str]":
    """Start a command with pipes for its output."""
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
    """Wait for a condition that becomes true before a process ends."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table written by a command."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_no_trial_was_repeated(folder: Path) -> None:
    """Check that the journal of a resumed run contains no trial twice."""
    made = [(trial.spec, trial.fresh_process) for trial in read_journal(folder).trials]
    assert len(made) == len(set(made))
