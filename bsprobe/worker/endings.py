"""The ways in which a worker ends instead of answering, and the second attempt after a death."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import WorkerError
from bsprobe.records.failures import (
    STOPPED_WITH_ITS_PEERS,
    Certainty,
    KernelKill,
    Outcome,
    classify_death,
    manner_of_death,
)
from bsprobe.records.trials import Failure
from bsprobe.worker.required import missing_package


class PeerFailedError(Exception):
    """Raised by a `Watch`: the worker waits for another process that will not come any more."""


class TimedOutError(Exception):
    """Raised while a worker is waited for: the time is up."""


class WorkerDiedError(Exception):
    """Raised while a worker is waited for: it is dead.

    Attributes:
        exit_status: As `Popen` has it.
        last_words: The end of what it left on its standard error.
    """

    def __init__(self, exit_status: int, last_words: str) -> None:
        super().__init__(f"worker exited with status {exit_status}")
        self.exit_status = exit_status
        self.last_words = last_words

    @property
    def last_line(self) -> str:
        """The last line that it left; empty where it left none."""
        return (self.last_words.strip().splitlines() or [""])[-1]


class KilledAtStartError(WorkerError):
    """A signal ended a worker before its device was open: that says nothing of the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDeath:
    """A worker that died or was killed instead of answering."""

    outcome: Outcome
    failure: Failure


def death_of(
    error: WorkerDiedError, kind: DeviceKind, *, killed: KernelKill | None, phase: str
) -> WorkerDeath:
    """The record of a death.

    Args:
        error: The death.
        kind: The kind of device that the worker had opened.
        killed: Evidence that the kernel killed it.
        phase: The phase in which it was.
    """
    verdict = classify_death(
        kind, exit_status=error.exit_status, last_words=error.last_words, killed=killed
    )
    words = f"the process died ({manner_of_death(error.exit_status)}"
    if verdict.evidence == killed:
        words += f"; {killed} moved"
    elif verdict.certainty is Certainty.UNEXPLAINED:
        words += "; no sign of a lack of memory"
    words += ")" + (f": {error.last_line}" if error.last_line else "")
    failure = Failure(
        message=words, certainty=verdict.certainty, evidence=verdict.evidence, phase=phase
    )
    return WorkerDeath(outcome=verdict.outcome, failure=failure)


class Attempt(Protocol):
    """The end of something that a worker was asked to do."""

    @property
    def failure(self) -> Failure | None:
        """The reason why it was not done; None where it was."""


Attempted = TypeVar("Attempted", bound=Attempt)
Started = TypeVar("Started")


def again_if_unexplained(attempt: Callable[[], Attempted]) -> Attempted:
    """Attempt something, and once more where its process died and nothing says of what.

    Args:
        attempt: Does it, in a fresh process where the last one is dead.

    Returns:
        The end of the last attempt: after two such deaths a failure.
    """
    made = attempt()
    if made.failure is not None and made.failure.certainty is Certainty.UNEXPLAINED:
        return attempt()
    return made


def again_if_killed(start: Callable[[], Started]) -> Started:
    """Start a worker, and once more where a signal ended it before its device was open."""
    try:
        return start()
    except KilledAtStartError:
        return start()


Words = tuple[str, str | None]
"""The event in words, and a hint."""


@contextmanager
def endings_as_errors(*, silent: Words, died: Words) -> Iterator[None]:
    """Raise an error where a worker ends outside of a trial: there is no record to make of it.

    Args:
        silent: The words for a worker that says nothing within its time.
        died: The words for one that dies.

    Raises:
        WorkerError: It ended.
    """
    try:
        yield
    except TimedOutError:
        what, hint = silent
        raise WorkerError(what, hint=hint) from None
    except PeerFailedError:
        raise WorkerError(STOPPED_WITH_ITS_PEERS) from None
    except WorkerDiedError as death:
        what, hint = died
        last = death.last_line or str(death)
        if missing := missing_package(last):
            raise WorkerError(str(missing), hint=missing.hint) from None
        kind = KilledAtStartError if death.exit_status < 0 else WorkerError
        raise kind(f"{what}: {last}", hint=hint) from None
