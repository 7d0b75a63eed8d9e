"""The records of exceptions that end a trial or its validation."""

import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import BsprobeError
from bsprobe.records.failures import Outcome, classify
from bsprobe.records.trials import VALIDATION_PHASE, Failure, Peak, Validated


def describe_failure(error: Exception, phase: str, kind: DeviceKind) -> tuple[Outcome, Failure]:
    """Return the outcome and the record of a failed trial.

    Args:
        error: The exception.
        phase: The phase in which it was raised.
        kind: The kind of device on which the trial ran.
    """
    message = str(error).strip() or type(error).__name__
    verdict = classify(kind, types=[kind.__name__ for kind in type(error).__mro__], message=message)
    return verdict.outcome, Failure(
        message=f"{type(error).__name__}: {message.splitlines()[0]}",
        certainty=verdict.certainty,
        evidence=verdict.evidence,
        phase=phase,
        traceback=_without_folders("".join(traceback.format_exception(error))),
        place=_place_of(error) if verdict.outcome is Outcome.FAILED else None,
    )


def validated(
    work: Callable[[], Peak],
    kind: DeviceKind,
    *,
    retries: Callable[[], int],
    lift_limit: Callable[[], None],
) -> Validated:
    """Validate after the training steps of a trial; a failure does not end the trial.

    Args:
        work: Runs the validation and returns its peak.
        kind: The kind of device on which the trial runs.
        retries: Returns the number of times that the allocator has flushed its cache so far.
        lift_limit: Removes the memory limit, so that a failure can be described.

    Raises:
        BsprobeError: The work raised it. It is no verdict on the batch and ends the run.
    """
    before = retries()
    try:
        peak = work()
        retried = retries() > before
        return Validated(peak=peak, outcome=Outcome.FITS_WITH_RETRIES if retried else Outcome.FITS)
    except BsprobeError:
        raise
    except Exception as error:  # noqa: BLE001 - recorded as data, as the failure of a trial is
        lift_limit()
        outcome, failure = describe_failure(error, VALIDATION_PHASE, kind)
        return Validated(outcome=outcome, failure=failure)


def _place_of(error: Exception) -> str | None:
    """Return the innermost line of the stack outside bsprobe and installed packages."""
    libraries = {str(Path(__file__).resolve().parents[1])} | {
        sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib")
    }
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, "<")):
            return f"{_without_folders(frame.filename)}, line {frame.lineno}"
    return None


def _without_folders(text: str) -> str:
    """Remove this machine's package folders from a traceback, because reports are shared."""
    package = Path(__file__).resolve().parents[2]
    for folder in sorted({str(package), *sys.path} - {""}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text
