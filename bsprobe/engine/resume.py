"""A run that was interrupted: where it is, and whether this device may go on with it."""

from pathlib import Path

from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.units import format_bytes
from bsprobe.storage import journal, runfile


def newest_unfinished(base: Path) -> Path:
    """The folder of the newest unfinished run below another folder.

    Raises:
        UsageError: There is none.
    """
    found = [
        path.parent
        for path in base.glob(f"*/{journal.NAME}")
        if not (path.parent / runfile.NAME).exists()
    ]
    if not found:
        raise UsageError(
            f"there is no unfinished run below {base}/", hint="name its folder with --out"
        )
    return max(found, key=lambda folder: (folder / journal.NAME).stat().st_mtime)


def require_same_device(before: DeviceInfo, now: DeviceInfo, folder: Path) -> None:
    """Refuse to go on with a run on another device, or with other memory.

    Args:
        before: The device that the run was begun on.
        now: The device that is open.
        folder: The run's.

    Raises:
        FileError: They differ.
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
        difference = f"now there are {by}"
        hint = f"other processes hold memory of this GPU: end them, or {anew}"
        if change > 0:
            hint = f"other processes held memory of this GPU then: {anew}"
    raise FileError(
        f"the run in {folder} was made on {before.name} with {_memory_of(before)}, {difference}",
        hint=hint,
    )


def _memory_of(device: DeviceInfo) -> str:
    if device.limit_bytes is not None:
        return f"a memory limit of {format_bytes(device.limit_bytes)}"
    return f"{format_bytes(device.capacity_bytes)} and no memory limit"
