"""Checks that interrupted work is resumed under the same conditions: device, memory, versions.

Other conditions give other peaks: a boundary between a batch that ran under one and a batch that
failed under another would be wrong.
"""

from dataclasses import replace
from typing import Final

from bsprobe._version import __version__
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import FileError
from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.records.scripts import Script
from bsprobe.records.units import format_bytes
from bsprobe.worker.environment import alloc_conf
from bsprobe.worker.protocol import Ready

_OF_BSPROBE: Final = {"bsprobe": "bsprobe"}
_OF_PYTORCH: Final = {"torch": "PyTorch", "cuda": "CUDA", "cudnn": "cuDNN"}
_OF_ALLOCATOR: Final = {"cuda_alloc_conf": "PYTORCH_CUDA_ALLOC_CONF"}


def require_same_versions(
    before: Environment, ready: Ready, what: str, *, script: Script | None = None
) -> None:
    """Check that work is resumed with the same bsprobe, PyTorch, CUDA, cuDNN and allocator.

    Args:
        before: The environment in which the work was started.
        ready: The first answer of the worker, with the versions that it loaded.
        what: Name of the resumed work, for example `run in out`.
        script: The user's command, which brings its own PyTorch; or None.

    Raises:
        FileError: A version differs.
    """
    now = replace(
        before,
        bsprobe=__version__,
        torch=ready.torch,
        cuda=ready.cuda,
        cudnn=ready.cudnn,
        cuda_alloc_conf=alloc_conf(),
    )
    compared = _OF_BSPROBE | ({} if script is not None else _OF_PYTORCH)
    if ready.device.kind is not DeviceKind.CPU:
        compared |= _OF_ALLOCATOR
    changed = [
        (name, getattr(before, field), getattr(now, field))
        for field, name in compared.items()
        if getattr(before, field) != getattr(now, field)
    ]
    if not changed:
        return
    old, new = (" and ".join(_with_value(c[0], c[side]) for c in changed) for side in (1, 2))
    raise FileError(
        f"the {what} was made with {old}, this is with {new}",
        hint=f"use {old} again, or {_anew(what)}",
    )


def _with_value(name: str, value: str | None) -> str:
    """Return `PyTorch 2.6.0`, `no cuDNN` or `PYTORCH_CUDA_ALLOC_CONF=...`."""
    if value is None:
        return f"no {name}"
    return f"{name}{'=' if '_' in name else ' '}{value}"


def _anew(what: str) -> str:
    return f"start a new {what.partition(' ')[0]} without --resume"


def require_same_device(before: DeviceInfo, now: DeviceInfo, what: str) -> None:
    """Check that work is resumed on the same device with the same memory.

    Args:
        before: The device on which the work was started.
        now: The device that is open.
        what: Name of the resumed work, for example `run in out`.

    Raises:
        FileError: The devices or their memory differ.
    """
    if before.name == now.name and now.has_memory_of(before):
        return
    change = now.capacity_bytes - before.capacity_bytes
    by = f"{format_bytes(abs(change))} {'more' if change > 0 else 'less'}"
    anew = _anew(what)
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
        f"the {what} was made on {before.name} with {_memory_of(before)}, {difference}",
        hint=hint,
    )


def _memory_of(device: DeviceInfo) -> str:
    if device.limit_bytes is not None:
        return f"a memory limit of {format_bytes(device.limit_bytes)}"
    return f"{format_bytes(device.capacity_bytes)} and no memory limit"
