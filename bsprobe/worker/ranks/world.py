"""The ranks that torchrun started, and the store through which they communicate.

The parents of all ranks agree here on each trial and publish their results; their workers join a
process group for one trial at a time. A waiting parent checks the ranks that it waits for: a rank
that has ended, or sends no heartbeat, ends the wait.
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
"""A rank without a heartbeat for this time is dead, or its machine is out of reach."""
_FIRST_BEAT_SECONDS = 300.0
"""Time until the first heartbeat: importing torch from a network disk with a cold cache is slow."""
_FAREWELL_SECONDS = 5.0
_ENDED = "ended"
_NOBODY = ""
_DONE = "done"


class Store(Protocol):
    """The part of torch's key-value stores that is used; errors are RuntimeErrors."""

    def set(self, key: str, value: str) -> None:
        """Set a key."""

    def get(self, key: str) -> bytes:
        """Return the value of an existing key."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys exist."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Set a key if it has the expected value.

        Args:
            key: The key.
            expected: The expected value; an empty string stands for a missing key.
            desired: The new value.

        Returns:
            The value of the key after the call.
        """


class World:
    """All ranks, as the parent of this rank sees them.

    Args:
        launch: The variables of torchrun.
        store: The store of all ranks.
    """

    def __init__(self, launch: Launch, store: Store) -> None:
        self.launch = launch
        self._store = store
        self._seen: dict[int, tuple[str, float]] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def group(self, trial: int, *, timeout: float) -> Group:
        """Return the process group of one trial, for the worker of this rank."""
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
        """Publish a text of this rank for the other ranks.

        Raises:
            OutOfReachError: The store is gone.
        """
        with _store_errors():
            self._store.set(f"{topic}/{self.launch.rank}", text)

    def wait_for(self, topic: str, rank: int) -> str:
        """Wait for the text that one rank publishes.

        Raises:
            WorkerError: That rank, or rank 0, is gone.
        """
        key = f"{topic}/{rank}"
        while not self._has(key):
            self.check()
            time.sleep(_POLL_SECONDS)
        return self._text(key)

    def wait_for_all(self, topic: str) -> tuple[str, ...]:
        """Wait for the texts that all ranks publish, including this one; return them by rank.

        Raises:
            WorkerError: A rank is gone.
        """
        return tuple(self.wait_for(topic, rank) for rank in range(self.launch.processes))

    def note(self, event: str) -> None:
        """Note an event; the store keeps the first rank that notes it."""
        with _store_errors():
            self._store.compare_set(event, _NOBODY, str(self.launch.rank))

    def has_happened(self, event: str) -> bool:
        """Return whether any rank has noted an event."""
        return self._has(event)

    def check(self) -> None:
        """Check that the other ranks are alive.

        Rank 0 checks all others; they check only rank 0 and end with it.

        Raises:
            WorkerError: A rank has ended.
            OutOfReachError: A rank sends no heartbeat.
        """
        if self._has(_ENDED):
            who, _, reason = self._text(_ENDED).partition(":")
            raise WorkerError(f"rank {who} ended: {reason}")
        for rank in self._looked_after():
            limit = _SILENCE_SECONDS if self._has(f"beat/{rank}") else _FIRST_BEAT_SECONDS
            if self._silence(rank) > limit:
                raise OutOfReachError(
                    f"rank {rank} has sent no heartbeat for {limit:.0f} s",
                    hint="check its process and its machine, then go on with --resume",
                )

    def close(self, reason: str | None) -> None:
        """Leave the other ranks, with a reason unless everything is done."""
        farewell = f"farewell/{self.launch.rank}"
        with suppress(RuntimeError):  # the store is gone
            if reason is not None:
                self._store.compare_set(_ENDED, _NOBODY, f"{self.launch.rank}:{reason}")
            self._store.set(farewell, _DONE)
            # A store that this process hosts must outlive the last messages of the others. And
            # torchrun stops all processes once one has failed, so the others wait for rank 0,
            # which prints the error.
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
        """Return the seconds since the last heartbeat of a rank."""
        key = f"beat/{rank}"
        beat, now = self._text(key) if self._has(key) else "", time.monotonic()
        last, since = self._seen.get(rank, (None, now))
        if beat != last:
            since = now
        self._seen[rank] = (beat, since)
        return now - since

    def _beat(self) -> None:
        """Send heartbeats, from a thread that does not wait for the main thread."""
        with suppress(RuntimeError):  # the store is gone; the main thread raises
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
            f"the store of the ranks cannot be reached: {str(error).splitlines()[0]}",
            hint="check that torchrun and the machine of rank 0 are running",
        ) from error


def reason_of(error: BaseException) -> str:
    """Return the text of an error for the other ranks."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, BsprobeError) else f"{type(error).__name__}: {error}"
