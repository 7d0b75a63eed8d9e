"""Ctrl-C is delayed to the end of a block that must complete."""

import signal
import threading

import pytest

from bsprobe.worker.interruption import undisturbed


def test_an_interruption_is_delayed_to_the_end_of_the_block() -> None:
    steps = []

    def work() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            steps.append("still here")
        steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        work()

    assert steps == ["still here"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_an_interruption_the_handlers_are_restored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with undisturbed():
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_in_the_block_restores_the_handlers_too() -> None:
    with pytest.raises(ZeroDivisionError), undisturbed():
        raise ZeroDivisionError

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_it_does_nothing() -> None:
    done = []

    def work() -> None:
        with undisturbed():  # setting a handler would raise here
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert done == [signal.default_int_handler]
