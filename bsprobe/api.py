"""The Python API: probe, predict and recommend for user-supplied workloads.

Its functions return the records that `bsprobe run` writes.
"""

import sys
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from bsprobe.engine.executable_batch import growth_error, with_proven_batch
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
    """Find the largest batch by real training steps, and recommend a training plan.

    Args:
        workload: The training to probe.
        device: `cuda`, `cuda:N` or `cpu`.
        options: See `Options`.

    Returns:
        The run, with its trials, boundaries and recommendations.

    Raises:
        UsageError: A part of the workload cannot be imported, or an option is invalid.
        DeviceError: The device does not exist, or a part of the workload cannot be built on it.
    """
    return _run(workload, DeviceRequest(device=device), options)


@hints_in_tracebacks()
def predict(workload: Workload, *, gpu: str, **options: Unpack[Options]) -> Run:
    """Predict the result of `probe` on a GPU; the GPU itself is not needed.

    Args:
        workload: The training to predict.
        gpu: A name that `bsprobe gpus` lists.
        options: See `Options`.

    Returns:
        The run, with predicted trials.

    Raises:
        UsageError: As `probe`, or `gpu` is unknown.
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
    """Return the best recommendation of `probe`, or of `predict` if `gpu` is given.

    Args:
        workload: The training to probe or predict.
        device: As of `probe`; by default `cuda`.
        gpu: As of `predict`; excludes `device`.
        options: See `Options`.

    Raises:
        UsageError: As `probe` and `predict`, or both `device` and `gpu` are given.
        DeviceError: As `probe`, or no batch size runs.
    """
    if gpu is not None and device is not None:
        raise UsageError("gpu and device exclude each other", hint="give one of the two")
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
    """Pass the largest batch that runs to a function, as its first argument.

    This replaces accelerate's decorator of the same name, which reduces the batch until the
    function itself raises no error. Here `bsprobe.probe` proves the boundary once and prints one
    line per trial to standard error. The batch is kept in the user's cache folder, by device,
    memory, PyTorch version, settings, the files that define the workload and the user's own files
    that the trials imported.

    Args:
        workload: The training that the function runs.
        starting_batch_size: The largest batch to try, as in accelerate.
        device: `cuda`, `cuda:N` or `cpu`.
        options: As of `probe`, except `max_batch`.

    Returns:
        The decorator. The decorated function raises what `probe` raises, and DeviceError if no
        batch runs or the boundary is not found.
    """
    return with_proven_batch(
        workload,
        device=device,
        options={**options, "max_batch": starting_batch_size},
        listener=lambda settings: PlainProgress(settings, sys.stderr),
    )


def _nothing_ran(run: Run) -> DeviceError:
    """Build the error for a run without a recommendation."""
    if growing := growth_error(run.results[0]):
        return growing
    boundary = run.results[0].boundary
    return DeviceError(
        f"no batch size ran on {run.device.name}: {boundary.detail or boundary.stop}",
        hint="probe(..., out=FOLDER) keeps a record of every trial and its failure",
    )


def _run(workload: Workload, device: DeviceRequest, options: Options) -> Run:
    settings = settings_for(workload, device, options)
    with start_worker(settings) as runner:
        return run_on(runner, settings, options)
