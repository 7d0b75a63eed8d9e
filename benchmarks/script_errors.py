"""Error handling for scripts: one line, a hint and an exit code, as in the command line."""

import sys
from collections.abc import Callable
from typing import NoReturn

from bsprobe.records.errors import BsprobeError

_INTERRUPTED = 130


def exit_from(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its status, the error's exit code, or 130 on Ctrl-C."""
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
