"""The processes that torchrun started, and the store at which they meet.

The parents of all ranks agree here on what to run, and tell each other what came of it; their
workers meet here for one trial at a time. A parent that waits looks after those it waits for: one
that has ended, or has fallen silent, ends the wait.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from bsprobe.records.errors import BsprobeError, OutOfReachError, WorkerError
from bsprobe.worker.protocol import Group
from bsprobe.worker.ranks.launch import Launch

_POLL_SECONDS = 0.1
_BEAT_SECONDS = 1.0
_SILENCE_SECONDS = 30.0
"""After so long without a beat a process is dead, or its machine is out of reach."""
_FIRST_BEAT_SECONDS = 300.0
"""Until the first one: importing torch from a network disk with a cold cache is slow."""
_FAREWELL_SECONDS = 5.0
_ENDED = "ended"
_NOBODY = ""
_DONE = "done"


class Store(Protocol):
    """The part of torch's key-value stores that is used; errors are RuntimeErrors."""

    def set(self, key: str, value: str) -> None:
        """Set a key."""

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""

    def check(self, keys: list[str]) -> bool:
        """Tell whether all of these keys are there."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Set a key if it has the expected value, or is not there and none is expected."""


class World:
    """This process among those that run the trials together, as its parent sees them.

    Args:
        launch: What torchrun says.
        store: The store at which all processes meet.
    """

    def __init__(self, launch: Launch, store: Store) -> None:
        self.launch = launch
        self._store = store
        self._seen: dict[int, tuple[str, float]] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def group(self, trial: int, *, timeout: float) -> Group:
        """The process group of one trial, for this rank's worker."""
        launch = self.launch
        return Group(
            host=launch.host,
            port=launch.port,
            name=f"{launch.name}/group/{trial}",
            rank=launch.rank,
            processes=launch.processes,
            timeout_seconds=timeout,
        )

    def publish(self, topic: str, text: str) -> None:
        """Publish something that the others may wait for.

        Raises:
            OutOfReachError: The store is gone.
        """
        with _store_errors():
            self._store.set(f"{topic}/{self.launch.rank}", text)

    def wait_for(self, topic: str, rank: int) -> str:
        """Wait for what one process publishes.

        Raises:
            WorkerError: It, or the process that leads, is gone.
        """
        key = f"{topic}/{rank}"
        while not self._has(key):
            self.check()
            time.sleep(_POLL_SECONDS)
        return self._text(key)

    def wait_for_all(self, topic: str) -> tuple[str, ...]:
        """Wait for what every process publishes, this one included; by rank.

        Raises:
            WorkerError: One is gone.
        """
        return tuple(self.wait_for(topic, rank) for rank in range(self.launch.processes))

    def note(self, event: str) -> None:
        """Note that something has happened here; the first process to note it is remembered."""
        with _store_errors():
            self._store.compare_set(event, _NOBODY, str(self.launch.rank))

    def has_happened(self, event: str) -> bool:
        """Whether any process has noted it."""
        return self._has(event)

    def check(self) -> None:
        """Make sure that those who are waited for are still there.

        The process that leads looks after all, the others after it alone: if it ends, all do.

        Raises:
            WorkerError: One has ended.
            OutOfReachError: One has fallen silent.
        """
        if self._has(_ENDED):
            who, _, reason = self._text(_ENDED).partition(":")
            raise WorkerError(f"rank {who} ended: {reason}")
        for rank in self._looked_after():
            limit = _SILENCE_SECONDS if self._has(f"beat/{rank}") else _FIRST_BEAT_SECONDS
            if self._silence(rank) > limit:
                raise OutOfReachError(
                    f"rank {rank} has not been heard of for {limit:.0f} s",
                    hint="was it killed, or has its machine gone? go on with --resume",
                )

    def close(self, reason: str | None) -> None:
        """Take leave, with the reason if it is not that everything is done."""
        farewell = f"farewell/{self.launch.rank}"
        with suppress(RuntimeError):  # the store is gone, and everyone with it
            if reason is not None:
                self._store.compare_set(_ENDED, _NOBODY, f"{self.launch.rank}:{reason}")
            self._store.set(farewell, _DONE)
            # A store that this process hosts must outlive the others' last words, and torchrun
            # stops all processes as soon as one has failed: the one that leads must have its say.
            keys = [f"farewell/{rank}" for rank in self._looked_after()]
            deadline = time.monotonic() + _FAREWELL_SECONDS
            while not self._store.check(keys) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        self._stopped.set()

    def _looked_after(self) -> range:
        return range(1, self.launch.processes) if self.launch.leads else range(1)

    def _has(self, key: str) -> bool:
        with _store_errors():
            return bool(self._store.check([key]))

    def _text(self, key: str) -> str:
        with _store_errors():
            return self._store.get(key).decode()

    def _silence(self, rank: int) -> float:
        """Seconds since a process was last heard of."""
        key = f"beat/{rank}"
        beat, now = self._text(key) if self._has(key) else "", time.monotonic()
        last, since = self._seen.get(rank, (None, now))
        if beat != last:
            since = now
        self._seen[rank] = (beat, since)
        return now - since

    def _beat(self) -> None:
        """Be heard, at once and whatever the main thread is doing."""
        with suppress(RuntimeError):  # the store is gone, as the main thread will find
            for number in itertools.count():
                self._store.set(f"beat/{self.launch.rank}", str(number))
                if self._stopped.wait(_BEAT_SECONDS):
                    return


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OutOfReachError(
            f"the processes have lost their meeting place: {str(error).splitlines()[0]}",
            hint="did torchrun end, or the machine of rank 0?",
        ) from error


def reason_of(error: BaseException) -> str:
    """An error in the words that other processes pass on."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, BsprobeError) else f"{type(error).__name__}: {error}"
