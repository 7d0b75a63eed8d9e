"""Checkpoints of a training, from which it resumes to the same figures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import FileError
from bsprobe.records.failures import Outcome, classify
from bsprobe.storage.codec import from_json, parse_json, to_json
from bsprobe.storage.files import file_errors, replacing, require_regular_file
from bsprobe.study.learning.weights import LOAD_ERRORS
from bsprobe.study.records import Chance, CurvePoint, NoiseSample, TrainingSpec
from bsprobe.training.step import Task

_VERSION = 1


@dataclass(slots=True, kw_only=True)
class Reached:
    """The state of a training beside its network and optimizer."""

    updates: int = 0
    seconds: float = 0.0
    """Time spent on training, as in `CurvePoint`."""
    losses: tuple[float, ...] = ()
    """Losses of the updates since the last point of the curve."""
    curve: tuple[CurvePoint, ...] = ()
    noise: tuple[NoiseSample, ...] = ()
    chance: Chance | None = None
    """None until the first validation."""
    peak_bytes: int = 0


def save_checkpoint(path: Path, spec: TrainingSpec, task: Task, reached: Reached) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; an existing one is replaced.
        spec: The training.
        task: Its network, optimizer and scaler.
        reached: The rest of its state.

    Raises:
        FileError: The file cannot be written; the previous checkpoint is kept.
    """
    on_gpu = task.device.type == "cuda"
    content = {
        "version": _VERSION,
        "spec": _text(spec),
        "reached": _text(reached),
        "model": task.model.state_dict(),
        "optimizer": task.optimizer.state_dict(),
        "scaler": task.scaler.state_dict(),
        "updates_applied": task.updates_applied,
        "random_state": torch.get_rng_state(),
        "gpu_random_state": torch.cuda.get_rng_state(task.device) if on_gpu else None,
    }
    # Without a copy in memory, for which a large network may leave no room.
    with replacing(path) as file:
        torch.save(content, file)


def restore_checkpoint(path: Path, spec: TrainingSpec, task: Task) -> Reached | None:
    """Restore a task from its checkpoint.

    Args:
        path: The file of the checkpoint.
        spec: The training; that of the checkpoint must be equal.
        task: Its network, optimizer and scaler are restored in place.

    Returns:
        The rest of the state; None if there is no checkpoint.

    Raises:
        FileError: The checkpoint is damaged, or of another training.
    """
    if not path.exists():
        return None
    content = _read(path)
    if content.get("version") != _VERSION or content.get("spec") != _text(spec):
        raise FileError(
            f"{path} is the checkpoint of another training",
            hint="delete it to begin this training again",
        )
    with _damage_refused(path, task.device):
        reached = from_json(Reached, parse_json(content["reached"]))
        task.model.load_state_dict(content["model"])
        task.optimizer.load_state_dict(content["optimizer"])
        task.scaler.load_state_dict(content["scaler"])
        task.updates_applied = int(content["updates_applied"])
        torch.set_rng_state(content["random_state"])
        if content["gpu_random_state"] is not None:
            torch.cuda.set_rng_state(content["gpu_random_state"], task.device)
    return reached


def _read(path: Path) -> dict[str, Any]:
    require_regular_file(path)
    with file_errors(path), _damage_refused(path, None):
        # Random states must be on the CPU; load_state_dict moves the rest.
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content if isinstance(content, dict) else {}


@contextmanager
def _damage_refused(path: Path, device: torch.device | None) -> Iterator[None]:
    """Turn the errors of a damaged checkpoint into one that names it.

    Args:
        path: The file of the checkpoint.
        device: The device that it is restored to, whose own errors pass; None while it is read.
    """
    try:
        yield
    except LOAD_ERRORS as error:
        if device is not None and _is_of_device(error, DeviceKind(device.type)):
            raise
        raise FileError(
            f"{path} is damaged", hint="delete it to begin this training again"
        ) from error


def _is_of_device(error: Exception, kind: DeviceKind) -> bool:
    """Return whether memory ran out, or the GPU failed, while a sound checkpoint was restored."""
    types, message = [each.__name__ for each in type(error).__mro__], str(error)
    is_memory = classify(kind, types=types, message=message).outcome is not Outcome.FAILED
    return is_memory or "CUDA error" in message


def _text(record: TrainingSpec | Reached) -> str:
    return json.dumps(to_json(record), allow_nan=False)
