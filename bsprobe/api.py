"""The library: probe, predict and recommend for a training of your own, from Python.

The records that it returns are those that `bsprobe run` writes.
"""

import sys
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from bsprobe.engine.executable_batch import with_proven_batch
from bsprobe.engine.workload import (
    Options,
    Workload,
    hints_in_tracebacks,
    run_on,
    settings_for,
    start_worker,
)
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import MAX_BATCH, DeviceRequest, Recommendation, Run, Target
from bsprobe.report.run.plain import PlainProgress

__all__ = (
    "Options",
    "Recommendation",
    "Run",
    "Target",
    "Workload",
    "find_executable_batch_size",
    "predict",
    "probe",
    "recommend",
)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@hints_in_tracebacks()
def probe(workload: Workload, *, device: str = "cuda", **options: Unpack[Options]) -> Run:
    """Find the largest batch with real training steps, and what to train with then.

    Args:
        workload: What is trained.
        device: `cuda`, `cuda:N` or `cpu`.
        options: See `Options`.

    Raises:
        UsageError: A part of the workload cannot be imported, or an option is wrong.
        DeviceError: There is no such device, or a part of the workload cannot be built there.
    """
    return _run(workload, DeviceRequest(device=device), options)


@hints_in_tracebacks()
def predict(workload: Workload, *, gpu: str, **options: Unpack[Options]) -> Run:
    """Predict for a card what `probe` would find there; no GPU is needed.

    Args:
        workload: What is trained.
        gpu: A name that `bsprobe gpus` lists.
        options: See `Options`.

    Raises:
        UsageError: As `probe`; or no card has this name.
    """
    return _run(workload, DeviceRequest(gpu=find_gpu(gpu)), options)


@hints_in_tracebacks()
def recommend(
    workload: Workload,
    *,
    device: str | None = None,
    gpu: str | None = None,
    **options: Unpack[Options],
) -> Recommendation:
    """The best recommendation of what `probe` finds, or `predict` where a card is named.

    Raises:
        UsageError: As `probe`; or both a device and a card are named.
        DeviceError: As `probe`; or nothing ran at any batch size.
    """
    if gpu is not None and device is not None:
        raise UsageError("gpu predicts and device runs", hint="give one of the two")
    if gpu is not None:
        run = predict(workload, gpu=gpu, **options)
    else:
        run = probe(workload, device=device or "cuda", **options)
    if run.best is None:
        raise _nothing_ran(run)
    return run.best


def find_executable_batch_size(
    workload: Workload,
    *,
    starting_batch_size: int = MAX_BATCH,
    device: str = "cuda",
    **options: Unpack[Options],
) -> Callable[[Callable[Concatenate[int, _P], _R]], Callable[_P, _R]]:
    """Hand a function the largest batch that really runs, as its first argument.

    In the place of accelerate's decorator of this name, which halves the batch of the function
    itself until nothing is raised. Here the boundary is proven once, by `bsprobe.probe`, with a
    line on standard error for each trial, and kept in the user's cache folder: for this device with
    this much memory, this PyTorch, these settings, the files that define the parts of the workload,
    and those of the user's own that the trials imported.

    Args:
        workload: What the function trains.
        starting_batch_size: The largest batch to try, as in accelerate.
        device: `cuda`, `cuda:N` or `cpu`.
        options: As of `probe`, but for `max_batch`.

    Returns:
        The decorator. Calling what it makes raises what `probe` raises, and a DeviceError where no
        batch runs or the boundary is not found.
    """
    return with_proven_batch(
        workload,
        device=device,
        options={**options, "max_batch": starting_batch_size},
        listener=lambda settings: PlainProgress(settings, sys.stderr),
    )


def _nothing_ran(run: Run) -> DeviceError:
    """The error for a run without any recommendation."""
    boundary = run.results[0].boundary
    return DeviceError(
        f"no batch size ran on {run.device.name}: {boundary.detail or boundary.stop}",
        hint="probe(..., out=FOLDER) keeps every trial and what it died of",
    )


def _run(workload: Workload, device: DeviceRequest, options: Options) -> Run:
    settings = settings_for(workload, device, options)
    with start_worker(settings) as runner:
        return run_on(runner, settings, options)
