"""The library: probe, predict and recommend for a training of your own, from Python.

The records that it returns are those that `bsprobe run` writes.
"""

from typing import Unpack

from bsprobe.engine.executable_batch import find_executable_batch_size
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
from bsprobe.records.runs import DeviceRequest, Recommendation, Run, Target

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
    """What to train with: the best of what `probe` finds, or `predict` where a card is named.

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
