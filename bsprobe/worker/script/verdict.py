"""The outcome of one run of a command, from how it ended and what was seen of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import (
    ALLOCATOR_COUNT,
    Certainty,
    KernelKill,
    Outcome,
    Verdict,
    classify,
    classify_death,
    manner_of_death,
)
from bsprobe.records.scripts import View
from bsprobe.records.trials import Failure
from bsprobe.records.units import format_seconds
from bsprobe.worker.script.seen import Seen

_SHELL: Final = 128
"""Shells and containers report the death by signal N as the exit status 128 + N."""
_SIGKILL: Final = 9
_MOST_SIGNAL: Final = 64
_EXCEPTION: Final = re.compile(r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*\w+(?:Error|Exception))(?::|$)")
_TRACEBACK: Final = "Traceback (most recent call last)"
_MOST_TAIL: Final = 60
"""Lines of the output that are kept with a failure."""
_MEMORY_ERROR: Final = "MemoryError"
_MISSED: Final[Mapping[View, str]] = MappingProxyType(
    {View.NO_STEP: "no step of a torch.optim optimizer", View.INSIDE: "no further step"}
)
"""By view, the step that a PyTorch script did not make in `--seconds`; others are not seen to."""


class Ending(Enum):
    """The reason why a command runs no more."""

    STEPS = auto()
    """It was stopped after its steps."""
    RAN_OUT = auto()
    """It was stopped because it had run out of memory and went on."""
    EXITED = auto()
    SECONDS = auto()
    """It was stopped after `--seconds` without a step."""
    TIMED_OUT = auto()
    """It was stopped after `--trial-timeout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of a command, with all evidence."""

    ending: Ending
    exit_status: int
    """As `Popen.returncode` has it."""
    output: str
    """The last lines of its output."""
    killed: KernelKill | None
    """Evidence that the kernel killed one of its processes."""
    seconds: float
    """The time limit that was reached, for the message."""
    phase: str


def decided(
    end: End, seen: Sequence[Seen], view: View, kind: DeviceKind
) -> tuple[Outcome, Failure | None]:
    """Return the outcome of a command, and the failure if it did not run.

    Args:
        end: The end of the command.
        seen: The records of its processes.
        view: The way in which it was seen.
        kind: The kind of device.
    """
    if verdict := memory_verdict(seen, kind):
        return verdict.outcome, _failure(end, verdict, _words_on_memory(verdict, seen))
    if end.ending is Ending.TIMED_OUT:
        words = f"not finished after {format_seconds(end.seconds)}; --trial-timeout waits longer"
        return _undecided(end, words)
    if end.ending is Ending.SECONDS and view in _MISSED:
        words = f"{_MISSED[view]} in {format_seconds(end.seconds)}; --seconds waits longer"
        return _undecided(end, words)
    if end.ending is Ending.EXITED:
        verdict = _of_exit(end, kind)
        if verdict is not None:
            return verdict.outcome, _failure(end, verdict, _words_on_exit(end, verdict))
    retried = any(each.last is not None and each.last.retries > 0 for each in seen)
    return Outcome.FITS_WITH_RETRIES if retried else Outcome.FITS, None


def memory_verdict(seen: Sequence[Seen], kind: DeviceKind) -> Verdict | None:
    """Return the verdict on memory that ran out, whether or not the script went on; else None.

    Args:
        seen: The records of its processes.
        kind: The kind of device.
    """
    for record in (record for each in seen for record in each.ran_out):
        name = record.message.partition(":")[0]
        found = classify(kind, types=[_class_of(name)], message=record.message)
        if found.outcome is not Outcome.FAILED:
            return found
    # cuDNN's benchmark mode tries algorithms that may not fit, and goes on.
    if any(each.last and each.last.ooms and not each.last.benchmark for each in seen):
        return Verdict(outcome=Outcome.OUT_OF_MEMORY, evidence=ALLOCATOR_COUNT)
    return None


def _of_exit(end: End, kind: DeviceKind) -> Verdict | None:
    """The verdict on a command that ended by itself; None if it ran.

    An exit status of 0 is no success if the last lines say that memory ran out.
    """
    types = [_class_of(found[1]) for found in _exceptions(end.output)]
    said = classify(kind, types=types, message=end.output)
    if end.exit_status == 0:
        is_memory = said.outcome in (Outcome.OUT_OF_MEMORY, Outcome.HOST_MEMORY)
        return said if is_memory and said.certainty is Certainty.CERTAIN else None
    if said.outcome is not Outcome.FAILED:
        return said
    # A process below a shell or torchrun may have been killed, whatever the status says.
    status = -_SIGKILL if end.killed is not None else _as_signal(end.exit_status)
    found = classify_death(kind, exit_status=status, last_words=end.output, killed=end.killed)
    if found.certainty is Certainty.UNEXPLAINED and status >= 0:
        return Verdict(outcome=Outcome.FAILED, evidence=found.evidence)  # it ended by itself
    return found


def _as_signal(exit_status: int) -> int:
    """The exit status of a shell that reports a signal, as `Popen.returncode` has signals."""
    is_signal = _SHELL < exit_status <= _SHELL + _MOST_SIGNAL
    return _SHELL - exit_status if is_signal else exit_status


def _exceptions(output: str) -> list[re.Match[str]]:
    """The lines of the exceptions that end the tracebacks of an output, the last one first.

    The first group is the class.
    """
    if _TRACEBACK not in output:
        return []
    found = (_EXCEPTION.match(line) for line in output.splitlines())
    return [match for match in found if match][::-1]


def _class_of(name: str) -> str:
    """The class of an exception by its name in a traceback; NumPy's memory errors are Python's."""
    last = name.rpartition(".")[2]
    return _MEMORY_ERROR if last.endswith(_MEMORY_ERROR) else last


def _words_on_exit(end: End, verdict: Verdict) -> str:
    lines = [found.string for found in _exceptions(end.output)[:1]] or end.output.splitlines()
    last = (lines or [""])[-1].strip()
    manner = manner_of_death(_as_signal(end.exit_status))
    words = f"the command ended ({manner}"
    if verdict.evidence == end.killed:
        words += f"; {end.killed} increased"
    elif verdict.certainty is Certainty.UNEXPLAINED:
        words += "; no sign of a lack of memory"
    return words + ")" + (f": {last}" if last else "")


def _words_on_memory(verdict: Verdict, seen: Sequence[Seen]) -> str:
    said = next((record.message for each in seen for record in each.ran_out), verdict.evidence)
    return said.splitlines()[0]


def _undecided(end: End, words: str) -> tuple[Outcome, Failure]:
    verdict = Verdict(outcome=Outcome.TIMED_OUT, evidence="time-out")
    return Outcome.TIMED_OUT, _failure(end, verdict, words)


def _failure(end: End, verdict: Verdict, words: str) -> Failure:
    tail = "\n".join(end.output.splitlines()[-_MOST_TAIL:])
    is_shown = verdict.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    return Failure(
        message=words,
        certainty=verdict.certainty,
        evidence=verdict.evidence,
        phase=end.phase,
        traceback=tail if is_shown and tail else None,
    )
