"""Errors of scripts: one line, a hint and an exit code, as the command line has them."""

import sys
from collections.abc import Callable
from typing import NoReturn

from bsprobe.records.errors import BsprobeError

_INTERRUPTED = 130


def exit_from(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit: 0 or what it returns, 2 and others by the error, 130."""
    try:
        status = main()
    except BsprobeError as problem:
        print(f"error: {' '.join(str(problem).split())}", file=sys.stderr)
        if problem.hint:
            print(f"hint: {problem.hint}", file=sys.stderr)
        status = problem.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = _INTERRUPTED
    sys.exit(status)
