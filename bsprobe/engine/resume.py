"""Lookup of an interrupted run, and the check that this device can resume it."""

import shlex
from pathlib import Path

from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.units import format_bytes
from bsprobe.storage import runfile
from bsprobe.storage.folders import REPORT, RUNS, begun
from bsprobe.storage.journal import Contents, Journal


def begun_run(folder: Path | None) -> tuple[Path, Journal, Contents]:
    """Find an unfinished run and open its journal.

    A run in which a variant has failed, or whose report is not written, counts as unfinished.

    Args:
        folder: The folder of the run. None takes the newest unfinished run below `REPORTS`.

    Returns:
        The folder, the open journal and its contents.

    Raises:
        UsageError: The folder holds no run, or a finished one.
        FileError: Another run is writing to the journal, or it is damaged.
    """
    found, (journal, contents) = begun(folder, RUNS, Journal.resume, _require_unfinished)
    return found, journal, contents


def _require_unfinished(folder: Path) -> None:
    """Raise UsageError for a run without failed variants whose report is written."""
    run = runfile.load_run(folder)
    if (folder / REPORT).exists() and not any(result.boundary.has_failed for result in run.results):
        raise UsageError(
            f"--resume: the run in {folder} is finished",
            hint=f"bsprobe report {shlex.quote(str(folder))} shows it again; for a new run give "
            "another --out",
        )


def require_same_device(before: DeviceInfo, now: DeviceInfo, folder: Path) -> None:
    """Check that a run is resumed on the same device with the same memory.

    Args:
        before: The device on which the run was started.
        now: The device that is open.
        folder: The folder of the run.

    Raises:
        FileError: The devices or their memory differ.
    """
    if before.name == now.name and now.has_memory_of(before):
        return
    change = now.capacity_bytes - before.capacity_bytes
    by = f"{format_bytes(abs(change))} {'more' if change > 0 else 'less'}"
    anew = "start a new run without --resume"
    hint = anew
    if before.name != now.name:
        difference = f"this is {now.name} with {_memory_of(now)}"
    elif before.limit_bytes != now.limit_bytes:
        difference = f"this one has {_memory_of(now)}" + (f", which is {by}" if change else "")
    else:
        difference = f"now it has {by}"
        hint = f"end other processes that hold memory of this GPU, or {anew}"
        if change > 0:
            hint = f"other processes held memory of this GPU before: {anew}"
    raise FileError(
        f"the run in {folder} was made on {before.name} with {_memory_of(before)}, {difference}",
        hint=hint,
    )


def _memory_of(device: DeviceInfo) -> str:
    if device.limit_bytes is not None:
        return f"a memory limit of {format_bytes(device.limit_bytes)}"
    return f"{format_bytes(device.capacity_bytes)} and no memory limit"
