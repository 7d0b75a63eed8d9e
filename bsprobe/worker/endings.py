"""Endings of a worker without an answer, and the second attempt after a death."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from bsprobe.records.trials import (
    VALIDATION_PHASE,
    Failure,
    Trial,
    TrialSpec,
    Validated,
    with_validation,
)
from bsprobe.worker.required import missing_package


class PeerFailedError(Exception):
    """Raised by a `Watch`: the worker waits for a process that has failed."""


class TimedOutError(Exception):
    """Raised if a worker does not answer in time."""


class WorkerDiedError(Exception):
    """Raised if a worker dies before it answers.

    Attributes:
        exit_status: The exit status, as in `Popen.returncode`.
        last_words: The end of its standard error.
    """

    def __init__(self, exit_status: int, last_words: str) -> None:
        super().__init__(f"worker exited with status {exit_status}")
        self.exit_status = exit_status
        self.last_words = last_words

    @property
    def last_line(self) -> str:
        """The last line of its standard error, or an empty string."""
        return (self.last_words.strip().splitlines() or [""])[-1]


class KilledAtStartError(WorkerError):
    """A signal killed a worker before its device was open, which says nothing of the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDeath:
    """The outcome of a worker that died or was killed before it answered."""

    outcome: Outcome
    failure: Failure


def death_of(
    error: WorkerDiedError, kind: DeviceKind, *, killed: KernelKill | None, phase: str
) -> WorkerDeath:
    """Build the record of a death.

    Args:
        error: The death.
        kind: The kind of device that the worker had opened.
        killed: Evidence that the kernel killed the worker, or None.
        phase: The phase in which the worker died.
    """
    verdict = classify_death(
        kind, exit_status=error.exit_status, last_words=error.last_words, killed=killed
    )
    words = f"the process died ({manner_of_death(error.exit_status)}"
    if verdict.evidence == killed:
        words += f"; {killed} increased"
    elif verdict.certainty is Certainty.UNEXPLAINED:
        words += "; no sign of a lack of memory"
    words += ")" + (f": {error.last_line}" if error.last_line else "")
    failure = Failure(
        message=words, certainty=verdict.certainty, evidence=verdict.evidence, phase=phase
    )
    return WorkerDeath(outcome=verdict.outcome, failure=failure)


class Attempt(Protocol):
    """The result of a request to a worker."""

    @property
    def failure(self) -> Failure | None:
        """The failure, or None."""


Attempted = TypeVar("Attempted", bound=Attempt)
Started = TypeVar("Started")


def again_if_unexplained(attempt: Callable[[], Attempted]) -> Attempted:
    """Run an attempt, and repeat it once if its process died without a known cause.

    Args:
        attempt: Runs the attempt, in a fresh process if the last one is dead.

    Returns:
        The result of the last attempt; after two such deaths a failure.
    """
    made = attempt()
    if made.failure is not None and made.failure.certainty is Certainty.UNEXPLAINED:
        return attempt()
    return made


def again_if_killed(start: Callable[[], Started]) -> Started:
    """Start a worker, and repeat it once if a signal killed it before its device was open."""
    try:
        return start()
    except KilledAtStartError:
        return start()


def keeping_training(run: Callable[[TrialSpec], Trial], spec: TrialSpec) -> Trial:
    """Run a trial; if its process dies in the validation, run it again without.

    The death is no verdict on the training, but took its measurement along.

    Args:
        run: Runs a trial.
        spec: The trial.
    """
    trial = run(spec)
    failure = trial.failure
    if spec.validation is None or failure is None or failure.phase != VALIDATION_PHASE:
        return trial
    trained = run(replace(spec, validation=None))
    return with_validation(trained, spec, Validated(outcome=trial.outcome, failure=failure))


Words = tuple[str, str | None]
"""A message and a hint."""


@contextmanager
def endings_as_errors(*, silent: Words, died: Words) -> Iterator[None]:
    """Raise WorkerError if a worker dies outside a trial or does not answer in time.

    Args:
        silent: Message and hint for a worker that does not answer in time.
        died: Message and hint for a worker that dies.

    Raises:
        WorkerError: The worker ended.
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
