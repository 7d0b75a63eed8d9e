"""Delay of Ctrl-C in blocks that must complete."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the end of the block.

    For short blocks that must complete, such as starting a process and keeping its ID: after an
    interruption in between nothing could end the process. Python handles signals in the main
    thread, so this does nothing in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    found = {number: signal.getsignal(number) for number in _ASKED_TO_END}
    # A handler that Python did not set is None, and Python cannot restore it.
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
