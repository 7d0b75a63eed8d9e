"""Out-of-memory messages that bsprobe is tested with, classified by each tool's own check."""

from __future__ import annotations

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Certainty, Outcome, classify


def recognitions() -> list[dict[str, str | bool]]:
    """Classify every message of `tests/records/test_failures.py` with every tool.

    Each message is the text of a RuntimeError. An entry has its first line, its meaning (`memory`,
    `perhaps memory`, `kernel limit`, `bug`), the verdicts of accelerate and Lightning (true for out
    of memory), and that of bsprobe: `yes`, `probable` (a smaller batch must then succeed) or `no`.
    """
    from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415 - optional
    from lightning.pytorch.utilities.memory import is_oom_error  # noqa: PLC0415 - optional

    from tests.records import test_failures as tested  # noqa: PLC0415 - imports pytest

    lists = {
        "memory": tested.CERTAIN,
        "perhaps memory": tested.PROBABLE,
        "kernel limit": tested.KERNEL_LIMITS,
        "bug": tested.BUGS,
    }
    return [
        {
            "message": (message.splitlines() or [""])[0],
            "meaning": meaning,
            "accelerate": bool(should_reduce_batch_size(RuntimeError(message))),
            "lightning": bool(is_oom_error(RuntimeError(message))),
            "bsprobe": _by_bsprobe(message),
        }
        for meaning, messages in lists.items()
        for message in messages
    ]


def _by_bsprobe(message: str) -> str:
    """Classify a message as on a GPU if one of its patterns matches, else as on the CPU."""
    for kind in (DeviceKind.CUDA, DeviceKind.CPU):
        verdict = classify(kind, types=["RuntimeError"], message=message)
        if verdict.outcome is Outcome.OUT_OF_MEMORY:
            return "yes" if verdict.certainty is Certainty.CERTAIN else "probable"
    return "no"
