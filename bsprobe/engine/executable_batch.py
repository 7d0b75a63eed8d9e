"""`find_executable_batch_size`: accelerate's decorator with a proven batch instead of attempts."""

import functools
import hashlib
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, Unpack

from bsprobe._version import __version__
from bsprobe.engine.workload import (
    Options,
    Workload,
    hints_in_tracebacks,
    run_on,
    settings_for,
    start_worker,
)
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.runs import MAX_BATCH, DeviceRequest, Run, Settings, StopReason
from bsprobe.storage.batch_cache import ProvenBatch, Question, find_batch, keep_batch
from bsprobe.storage.files import cache_folder

_LOG = logging.getLogger("bsprobe")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_CERTAIN = (StopReason.PROVEN, StopReason.KERNEL_LIMIT, StopReason.MAX_BATCH)


def find_executable_batch_size(
    workload: Workload,
    *,
    starting_batch_size: int = MAX_BATCH,
    device: str = "cuda",
    **options: Unpack[Options],
) -> Callable[[Callable[Concatenate[int, _P], _R]], Callable[_P, _R]]:
    """Hand a function the largest batch that really runs, as its first argument.

    In the place of accelerate's decorator of this name, which halves the batch of the function
    itself until nothing is raised. Here the boundary is proven once, by `bsprobe.probe`, and kept
    in the user's cache folder: for this device with this much memory, this PyTorch, these settings
    and the files that define the parts of the workload. What those files import is not looked at.

    Args:
        workload: What the function trains.
        starting_batch_size: The largest batch to try, as in accelerate.
        device: `cuda`, `cuda:N` or `cpu`.
        options: As of `probe`, but for `max_batch`.

    Returns:
        The decorator. Calling what it makes raises what `probe` raises, and a DeviceError where no
        batch runs or the boundary is not found.
    """

    def decorate(function: Callable[Concatenate[int, _P], _R]) -> Callable[_P, _R]:
        @functools.cache
        def batch() -> int:
            asked: Options = {**options, "max_batch": starting_batch_size}
            settings = settings_for(workload, DeviceRequest(device=device), asked)
            return _proven(settings, asked, _sources(workload)).batch

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            return function(batch(), *args, **kwargs)

        return call

    return decorate


@hints_in_tracebacks()
def _proven(
    settings: Settings, options: Options, sources: tuple[tuple[str, str], ...]
) -> ProvenBatch:
    """The largest batch of one variant, kept or found now."""
    if len(settings.variants) > 1:
        raise UsageError(
            f"these are {len(settings.variants)} variants, of which each has a batch of its own",
            hint="give one value for each option",
        )
    folder = cache_folder()
    with start_worker(settings) as runner:
        question = Question(
            device=runner.ready.device.name,
            capacity_bytes=runner.ready.device.capacity_bytes,
            torch=runner.ready.torch,
            bsprobe=__version__,
            settings=settings,
            sources=sources,
        )
        found = find_batch(folder, question)
        origin = "kept" if found is not None else "found"
        if found is None:
            run = run_on(runner, settings, options)
            found = _answer(run, question)
            keep_batch(folder, found)
    beyond = f", {found.first_failure} fails" if found.first_failure is not None else ""
    _LOG.info(
        "batch %d for %s on %s: it ran%s (%s %s; %s)",
        found.batch,
        settings.variants[0].network,
        question.device,
        beyond,
        origin,
        found.found_at,
        question.path(folder),
    )
    return found


def _answer(run: Run, question: Question) -> ProvenBatch:
    """What a run proved.

    Raises:
        DeviceError: It ended without a boundary.
    """
    boundary = run.results[0].boundary
    if boundary.largest is None or boundary.stop not in _CERTAIN:
        raise DeviceError(
            f"no batch size is known to be the largest on {run.device.name}: "
            f"{boundary.detail or boundary.stop}",
            hint="out=FOLDER keeps every trial and what it died of",
        )
    return ProvenBatch(
        question=question,
        batch=boundary.largest,
        first_failure=boundary.first_failure,
        found_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _sources(workload: Workload) -> tuple[tuple[str, str], ...]:
    """Per part of a workload a hash of the file that defines it, where there is one."""
    parts = (workload.model, workload.optimizer, workload.batch, workload.loss)
    modules = dict.fromkeys(getattr(part, "__module__", None) for part in parts)
    files = ((name, getattr(sys.modules.get(name or ""), "__file__", None)) for name in modules)
    return tuple(
        (str(name), hashlib.sha256(Path(file).read_bytes()).hexdigest())
        for name, file in files
        if file is not None
    )
