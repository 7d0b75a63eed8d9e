"""Who recognises which out-of-memory message: bsprobe's tested list, by each tool's own test."""

from __future__ import annotations

from dataclasses import dataclass

from bsprobe.records.failures import Certainty, Outcome, classify


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What each tool takes one message for."""

    message: str
    """Its first line."""
    meaning: str
    """`memory`, `perhaps memory`, `kernel limit` or `bug`."""
    accelerate: bool
    """Whether it takes it for want of memory, and goes on with a smaller batch."""
    lightning: bool
    bsprobe: str
    """`yes`, `probable` (a smaller batch must then succeed) or `no`."""


def recognitions() -> list[Recognition]:
    """Every message of `tests/records/test_failures.py`, as a RuntimeError, by every tool."""
    from tests.records.test_failures import (  # noqa: PLC0415 - the list that bsprobe is tested with
        BUGS,
        CERTAIN,
        KERNEL_LIMITS,
        PROBABLE,
    )

    lists = {
        "memory": CERTAIN,
        "perhaps memory": PROBABLE,
        "kernel limit": KERNEL_LIMITS,
        "bug": BUGS,
    }
    return [_recognised(text, meaning) for meaning, texts in lists.items() for text in texts]


def _recognised(message: str, meaning: str) -> Recognition:
    from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415 - optional
    from lightning.pytorch.utilities.memory import is_oom_error  # noqa: PLC0415 - optional

    error = RuntimeError(message)
    return Recognition(
        message=(message.splitlines() or [""])[0],
        meaning=meaning,
        accelerate=bool(should_reduce_batch_size(error)),
        lightning=bool(is_oom_error(error)),
        bsprobe=_by_bsprobe(message),
    )


def _by_bsprobe(message: str) -> str:
    verdict = classify(types=["RuntimeError"], message=message)
    if verdict.outcome is not Outcome.OUT_OF_MEMORY:
        return "no"
    return "yes" if verdict.certainty is Certainty.CERTAIN else "probable"
