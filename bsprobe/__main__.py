"""The entry point: runs a command and turns what it raises into one line and an exit code."""

import os
import re
import shutil
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING

from bsprobe.records.errors import BsprobeError, OutOfReachError
from bsprobe.worker.ranks.launch import Launch, follows
from bsprobe.worker.required import missing_package

try:
    import click

    from bsprobe.cli import bsprobe
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
"""Characters of a value that is repeated in an error."""
_LONGEST_LINE = 2000
"""Of a whole error or hint, which may list names and paths."""
_ROOM = "make room on this machine (disk, memory, processes), then try again"


def main() -> None:
    """Run the command line and exit: 0 fine, 1 regression, 2 usage or environment, 130, 101."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_exit_code())


def _exit_code() -> int:  # noqa: PLR0911 - one for each way in which a command ends
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
    except OSError as error:  # standard output, processes; about files, FileErrors are raised
        return _refused_by_system(error)
    except SystemExit:
        if sys.stdout is sys.__stdout__:
            raise
        return 0  # click put something else there: whoever read our output has seen enough
    except ImportError as error:
        missing = missing_package(str(error))
        return (
            _our_bug() if missing is None else _complain_first(str(missing), missing.hint, _USAGE)
        )
    except Exception:  # noqa: BLE001 - the last place before a user would see a bare traceback
        return _our_bug()
    return code if isinstance(code, int) else 0


def _connect(launch: Launch) -> "Store":
    """Connect to the store of torchrun's processes: the one thing that a parent needs torch for.

    The command line is given this function, and so never imports torch itself.
    """
    from bsprobe.worker.ranks.store import connect  # noqa: PLC0415 - as above

    return connect(launch)


def _our_bug() -> int:
    traceback.print_exc()
    return _complain("this is a bug in bsprobe", "please report it with the above", _OUR_BUG)


def _complain_first(message: str, hint: str | None, code: int) -> int:
    """Complain of what all processes of a run meet, or hear of each other: once, in the first."""
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
    line = _shortened(text, _LONGEST_LINE)
    is_terminal = sys.stderr.isatty()
    columns = shutil.get_terminal_size().columns
    click.echo(wrapped(label, line, columns) if is_terminal else f"{label}: {line}", err=True)


def _shortened(text: str, most: int) -> str:
    """A text without its middle where it is longer than people read."""
    kept = most // 2
    return text if len(text) <= most else f"{text[:kept]}…{text[-kept:]}"


def _refused_by_system(error: OSError) -> int:
    """Nobody reads what we print, or the machine has no room left, for output or processes."""
    # Python must not try, and complain, again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0  # whoever read our output has seen enough
    what = f"{error.filename}: " if error.filename else ""
    return _complain(f"{what}{error.strerror or error}", _ROOM, _USAGE)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Let a polite kill clean up exactly as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
