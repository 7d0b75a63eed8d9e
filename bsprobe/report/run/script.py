"""Sentences on the run of a user's command; all of them are empty for networks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bsprobe.analysis.script_facts import facts_of, is_unseen, limits_of
from bsprobe.records.runs import Run, VariantResult
from bsprobe.records.scripts import MemoryLimit, ScriptFacts
from bsprobe.records.trials import Trial

UNSEEN: Final = "not seen to step"
"""The mark of trials that count as run without a step that was seen."""
STEPS_SEEN: Final = (
    "*Steps seen*: optimizer steps, of the process with the fewest. Steps that a GradScaler skips "
    "are not counted."
)
"""The legend of a column in the log of trials."""
_LIMITS: Final[Mapping[MemoryLimit, str]] = MappingProxyType(
    {
        MemoryLimit.ALLOCATOR_SETTING: "per_process_memory_fraction of PyTorch's allocator",
        MemoryLimit.FRACTION: "set_per_process_memory_fraction, once CUDA was initialised",
        MemoryLimit.DATA_ABOVE_PYTORCH: "RLIMIT_DATA, above what it held with PyTorch loaded",
        MemoryLimit.DATA: "RLIMIT_DATA, from its start",
    }
)


def facts(run: Run) -> list[str]:
    """Return sentences on the processes of the command."""
    found = facts_of(run.trials)
    if found is None:
        return []
    lines = list(filter(None, [_versions(found)]))
    if run.device.limit_bytes is not None and (limits := limits_of(run.trials)):
        how = " or ".join(_LIMITS[each] for each in limits)
        lines.append(f"The memory limit holds for each process ({how}).")
    if run.processes > 1:
        lines.append(f"{run.processes} processes train together; batches are per process.")
    return lines


def _versions(found: ScriptFacts) -> str:
    """The versions that trained, and the optimizer; empty without PyTorch."""
    if found.torch is None:
        return ""
    python = f" on Python {found.python}" if found.python else ""
    optimizer = f", optimizer {found.optimizer}" if found.optimizer else ""
    return f"PyTorch {found.torch}{python}{optimizer}."


def mark(run: Run, result: VariantResult) -> str:
    """Return the addition to the name of a row that rests on trials without a seen step."""
    unseen = any(is_unseen(each) for each in run.trials if each.spec.variant == result.variant)
    return f", {UNSEEN}" if unseen else ""


def unseen(trial: Trial) -> str:
    """Return the addition to the outcome of a trial without a seen step."""
    return f", {UNSEEN}" if is_unseen(trial) else ""


def meaning_of_unseen(run: Run) -> list[tuple[str, str]]:
    """Return the legend of the mark, if a row has it."""
    if run.settings.script is None or not any(map(is_unseen, run.trials)):
        return []
    after = f"{run.settings.script.seconds:g} s"
    return [
        (
            UNSEEN,
            f"it counts as run as it ended without an error or was alive after {after} (--seconds)",
        )
    ]
