"""The entry point: runs a command and turns an exception into one line and an exit code."""

import os
import re
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from bsprobe.records.errors import BsprobeError, OutOfReachError
from bsprobe.records.printable import single_line
from bsprobe.worker.ranks.launch import Launch, follows
from bsprobe.worker.required import missing_package

try:
    import click

    from bsprobe.cli import bsprobe
    from bsprobe.cli.printing import show_on_stderr
    from bsprobe.cli.wrapping import wrapped
except ModuleNotFoundError as absent:
    without_click = missing_package(str(absent))
    if without_click is None:
        raise
    sys.stderr.write(f"error: {without_click}\nhint: {without_click.hint}\n")
    sys.exit(without_click.exit_code)

if TYPE_CHECKING:
    from bsprobe.worker.ranks.world import Store

_USAGE = 2
_OUR_BUG = 101
_INTERRUPTED = 130
_LONGEST_VALUE = 200
"""Longest value in an error message, in characters."""
_LONGEST_LINE = 2000
"""Longest error or hint, in characters; both may list names and paths."""
_ROOM = "make room on this machine (disk, memory, processes), then try again"


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 on success, 1 on a regression, 2 on an error of usage or environment, 101 on
    a bug and 130 on an interruption.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    _open_closed_streams()
    sys.exit(_exit_code())


def _open_closed_streams() -> None:
    """Open the null device for standard streams that the caller has closed.

    Otherwise the next file that is opened would take their place, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open until the end


def _exit_code() -> int:  # noqa: PLR0911 - one return for each kind of ending
    try:
        code = bsprobe.main(prog_name="bsprobe", standalone_mode=False, obj=_connect)
        sys.stdout.flush()
    except BsprobeError as error:
        complain = _complain if isinstance(error, OutOfReachError) else _complain_first
        return complain(str(error), error.hint, error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"see {context.command_path} --help" if context else None
        return _complain_first(error.format_message(), hint, _USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _complain_first("interrupted", None, _INTERRUPTED)
    except OSError as error:  # of standard output or processes; file errors are FileErrors
        return _refused_by_system(error)
    except SystemExit:
        if sys.stdout is sys.__stdout__:
            raise
        return 0  # click replaces stdout once the reader has closed the pipe
    except ImportError as error:
        missing = missing_package(str(error))
        return (
            _our_bug() if missing is None else _complain_first(str(missing), missing.hint, _USAGE)
        )
    except Exception:  # noqa: BLE001 - any other exception is reported as a bug
        return _our_bug()
    return code if isinstance(code, int) else 0


def _connect(launch: Launch) -> "Store":
    """Connect to the store of torchrun's processes.

    This is passed to the command line so that `bsprobe.cli` does not import torch.
    """
    from bsprobe.worker.ranks.store import connect  # noqa: PLC0415 - imports torch

    return connect(launch)


def _our_bug() -> int:
    show_on_stderr(traceback.format_exc().removesuffix("\n"))
    return _complain("this is a bug in bsprobe", "please report it with the above", _OUR_BUG)


def _complain_first(message: str, hint: str | None, code: int) -> int:
    """Print an error that all ranks raise or receive; only rank 0 prints it."""
    return code if follows(os.environ) else _complain(message, hint, code)


def _complain(message: str, hint: str | None, code: int) -> int:
    values = r"'[^']*'|\S+"
    shown = re.sub(values, lambda value: _shortened(value[0], _LONGEST_VALUE), message)
    _print("error", " ".join(shown.split()))
    if hint:
        _print("hint", hint)
    return code


def _print(label: str, text: str) -> None:
    """Print on standard error: wrapped on a terminal, else one line."""
    line = single_line(_shortened(text, _LONGEST_LINE))
    is_terminal = sys.stderr.isatty()
    columns = shutil.get_terminal_size().columns
    with suppress(OSError):  # a full disk behind standard error: the exit code tells
        show_on_stderr(wrapped(label, line, columns) if is_terminal else f"{label}: {line}")


def _shortened(text: str, most: int) -> str:
    """Cut the middle out of a text that is longer than `most` characters."""
    kept = most // 2
    return text if len(text) <= most else f"{text[:kept]}…{text[-kept:]}"


def _refused_by_system(error: OSError) -> int:
    """Handle a closed output pipe, or a machine without room for output or processes."""
    # Otherwise Python flushes again at exit and prints a second error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0  # the reader has closed the pipe on purpose, as `head` does
    what = f"{error.filename}: " if error.filename else ""
    return _complain(f"{what}{error.strerror or error}", _ROOM, _USAGE)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C, so that it cleans up in the same way."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
