"""`find_executable_batch_size`: accelerate's decorator with a proven batch instead of retries."""

import functools
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from bsprobe._version import __version__
from bsprobe.devices.identity import identity_of
from bsprobe.engine.probe import Listener
from bsprobe.engine.workload import (
    Options,
    Workload,
    hints_in_tracebacks,
    run_on,
    settings_for,
    start_worker,
)
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.printable import single_line
from bsprobe.records.runs import DeviceRequest, Run, Settings, StopReason, VariantResult
from bsprobe.records.units import format_bytes
from bsprobe.storage.batch_cache import ProvenBatch, Question, file_hash, find_batch, keep_batch
from bsprobe.storage.files import cache_folder
from bsprobe.worker.environment import installed_version

_LOG = logging.getLogger("bsprobe")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_CERTAIN = (StopReason.PROVEN, StopReason.KERNEL_LIMIT, StopReason.MAX_BATCH)


class SearchListener(Listener, Protocol):
    """Receives the events of a search for a batch that is not in the cache."""

    def on_opening(self) -> None:
        """A worker is about to open the device."""


def with_proven_batch(
    workload: Workload,
    *,
    device: str,
    options: Options,
    listener: Callable[[Settings], SearchListener],
) -> Callable[[Callable[Concatenate[int, _P], _R]], Callable[_P, _R]]:
    """Make the decorator of `bsprobe.find_executable_batch_size`.

    Args:
        workload: The training that the function runs.
        device: `cuda`, `cuda:N` or `cpu`.
        options: As of `probe`.
        listener: Makes the listener of a search from its settings.
    """

    def decorate(function: Callable[Concatenate[int, _P], _R]) -> Callable[_P, _R]:
        @functools.cache
        def batch() -> int:
            settings = settings_for(workload, DeviceRequest(device=device), options)
            return _proven(settings, options, _sources(workload), listener).batch

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            return function(batch(), *args, **kwargs)

        return call

    return decorate


@hints_in_tracebacks()
def _proven(
    settings: Settings,
    options: Options,
    sources: tuple[tuple[str, str], ...],
    listener: Callable[[Settings], SearchListener],
) -> ProvenBatch:
    """Return the largest batch of one variant, from the cache or from a new search."""
    if len(settings.variants) > 1:
        raise UsageError(
            f"find_executable_batch_size takes one variant, not {len(settings.variants)}",
            hint="give one value for each option",
        )
    folder = cache_folder()
    about = partial(Question, bsprobe=__version__, settings=settings, sources=sources)
    found = _kept_without_worker(folder, about, settings)
    if found is None:
        found = _kept_or_found(folder, about, settings, options, listener(settings))
    return found


def _kept_without_worker(
    folder: Path, about: Callable[..., Question], settings: Settings
) -> ProvenBatch | None:
    """Look up the cached batch of a device that can be identified without opening it."""
    identity, torch = identity_of(settings.device), _torch_version()
    if identity is None or torch is None:
        return None
    question = about(device=identity.name, capacity_bytes=identity.capacity_bytes, torch=torch)
    found = find_batch(folder, question)
    if found is not None:
        _tell(found, "kept", folder)
    return found


def _kept_or_found(
    folder: Path,
    about: Callable[..., Question],
    settings: Settings,
    options: Options,
    listener: SearchListener,
) -> ProvenBatch:
    """Return the batch for the device that a worker opens, from the cache or a new search."""
    listener.on_opening()
    with start_worker(settings) as runner:
        device = runner.ready.device
        question = about(
            device=device.name, capacity_bytes=device.capacity_bytes, torch=runner.ready.torch
        )
        found = find_batch(folder, question)
        if found is not None:
            _tell(found, "kept", folder)
            return found
        run = run_on(runner, settings, options, listener)
        found = _answer(run, question, tuple(sorted(runner.files)))
    keep_batch(folder, found)
    _tell(found, "found", folder)
    return found


def _torch_version() -> str | None:
    """Return the version of PyTorch without importing it, or None if it is not installed."""
    loaded = getattr(sys.modules.get("torch"), "__version__", None)
    return installed_version("torch") if loaded is None else str(loaded)


def _tell(found: ProvenBatch, origin: str, folder: Path) -> None:
    """Log the batch and its origin."""
    beyond = f", {found.first_failure} fails" if found.first_failure is not None else ""
    _LOG.info(
        "batch %d for %s on %s: it ran%s (%s %s; %s)",
        found.batch,
        single_line(found.question.settings.variants[0].network),
        single_line(found.question.device),
        beyond,
        origin,
        single_line(found.found_at),
        single_line(str(found.question.path(folder))),
    )


def _answer(run: Run, question: Question, files: tuple[str, ...]) -> ProvenBatch:
    """Return the batch that a run proved.

    Raises:
        DeviceError: The run ended without a boundary, or memory grows.
    """
    boundary = run.results[0].boundary
    if growing := growth_error(run.results[0]):
        raise growing
    if boundary.largest is None or boundary.stop not in _CERTAIN:
        raise DeviceError(
            f"the largest batch on {run.device.name} was not found: "
            f"{boundary.detail or boundary.stop}",
            hint="out=FOLDER keeps a record of every trial and its failure",
        )
    return ProvenBatch(
        question=question,
        batch=boundary.largest,
        first_failure=boundary.first_failure,
        files=tuple((name, file_hash(Path(name))) for name in files),
        found_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def growth_error(result: VariantResult) -> DeviceError | None:
    """Build the error for memory that grows in every step; None if it does not."""
    if not result.critical_growth:
        return None
    growth = result.growth[-1]
    return DeviceError(
        f"no batch is safe: at batch {growth.batch} memory grows by "
        f"{format_bytes(growth.bytes_per_step)} in every step, and is full at about step "
        f"{growth.full_at_step}",
        hint="keep no tensors from step to step: loss.item() instead of loss, "
        "output.detach().cpu() instead of output",
    )


def _sources(workload: Workload) -> tuple[tuple[str, str], ...]:
    """Hash the files that define the parts of a workload, by module."""
    parts = (workload.model, workload.optimizer, workload.batch, workload.loss)
    modules = dict.fromkeys(getattr(part, "__module__", None) for part in parts)
    files = ((name, getattr(sys.modules.get(name or ""), "__file__", None)) for name in modules)
    return tuple((str(name), file_hash(Path(file))) for name, file in files if file is not None)
