"""Ctrl-C at moments when it must wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let an interruption wait until the end of the block, and happen there.

    For blocks that are short and must be whole, such as starting a process and keeping its number:
    interrupted in between, nobody could end it. Signals reach the main thread alone, so in any
    other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    found = {number: signal.getsignal(number) for number in _ASKED_TO_END}
    # One that Python did not set is None, and Python could not set it again.
    handlers = {number: handler for number, handler in found.items() if handler is not None}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
