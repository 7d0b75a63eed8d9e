"""A training on disk while it runs, so that it goes on to the figures it would have come to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsprobe.records.errors import FileError
from bsprobe.storage.codec import from_json, to_json
from bsprobe.storage.files import file_errors, replacing, require_regular_file
from bsprobe.study.learning.weights import LOAD_ERRORS
from bsprobe.study.records import Chance, CurvePoint, NoiseSample, TrainingSpec
from bsprobe.training.step import Task

_VERSION = 1


@dataclass(slots=True, kw_only=True)
class Reached:
    """The state of a training: all that changes beside the network and the optimizer."""

    updates: int = 0
    seconds: float = 0.0
    """Spent on training, as in `CurvePoint`."""
    losses: tuple[float, ...] = ()
    """Of the updates since the last point of the curve."""
    curve: tuple[CurvePoint, ...] = ()
    noise: tuple[NoiseSample, ...] = ()
    chance: Chance | None = None
    """None until the first validation."""
    peak_bytes: int = 0


def save_checkpoint(path: Path, spec: TrainingSpec, task: Task, reached: Reached) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        FileError: The disk does not take it; the last one is left as it was.
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
    # Straight to the file: beside a large network there may be no room for a copy.
    with replacing(path) as file:
        torch.save(content, file)


def restore_checkpoint(path: Path, spec: TrainingSpec, task: Task) -> Reached | None:
    """Put a task back to where its checkpoint was written; None where there is none.

    Raises:
        FileError: It is damaged, or of another training.
    """
    if not path.exists():
        return None
    content = _read(path)
    if content.get("version") != _VERSION or content.get("spec") != _text(spec):
        raise FileError(
            f"{path} is the checkpoint of another training",
            hint="delete it to begin this training again",
        )
    task.model.load_state_dict(content["model"])
    task.optimizer.load_state_dict(content["optimizer"])
    task.scaler.load_state_dict(content["scaler"])
    task.updates_applied = content["updates_applied"]
    torch.set_rng_state(content["random_state"])
    if content["gpu_random_state"] is not None:
        torch.cuda.set_rng_state(content["gpu_random_state"], task.device)
    return from_json(Reached, json.loads(content["reached"]))


def _read(path: Path) -> dict[str, Any]:
    require_regular_file(path)
    with file_errors(path):
        try:
            # Random states must stay on the CPU; load_state_dict moves the rest.
            content = torch.load(path, map_location="cpu", weights_only=True)
        except LOAD_ERRORS as error:
            raise FileError(
                f"{path} is damaged", hint="delete it to begin this training again"
            ) from error
    return content if isinstance(content, dict) else {}


def _text(record: TrainingSpec | Reached) -> str:
    return json.dumps(to_json(record), allow_nan=False)
