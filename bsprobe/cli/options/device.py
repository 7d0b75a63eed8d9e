"""The device or card that the options name, and the number of processes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import Gpu, custom_gpu, find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.units import parse_bytes
from bsprobe.records.variants import Norm, Variant
from bsprobe.worker.ranks.launch import launched

CAPACITY = click.option(
    "--capacity",
    type=parse_bytes,
    metavar="SIZE",
    help="With --gpu custom: memory of the card, for example 20GiB.",
)
COMPUTE_CAPABILITY = click.option(
    "--compute-capability",
    metavar="X.Y",
    help="With --gpu custom: compute capability of the card, for example 8.6.",
)


def asked_processes(given: Mapping[str, Any]) -> int:
    """The number of processes that torchrun started, or that are predicted.

    Raises:
        UsageError: --processes or --gpu contradicts the launch.
    """
    launch = launched(os.environ)
    wanted: int | None = given["processes"]
    if launch is None and wanted in (None, 1):
        return 1
    if launch is None and given["gpu"] is None:
        raise UsageError(
            f"--processes {wanted} needs torchrun, or --gpu for a prediction",
            hint=f"start `torchrun --nproc-per-node {wanted} -m bsprobe run`, or add --gpu NAME",
        )
    if launch is None:
        assert wanted is not None  # noqa: S101 - returned above
        return wanted
    if given["gpu"] is not None:
        raise UsageError(
            "--gpu cannot be used under torchrun",
            hint="start it without torchrun: bsprobe run --gpu NAME --processes "
            f"{launch.processes}",
        )
    if wanted not in (None, launch.processes):
        raise UsageError(
            f"--processes {wanted}: torchrun started {launch.processes}",
            hint="leave --processes out",
        )
    return launch.processes


def asked_device(given: Mapping[str, Any], processes: int) -> DeviceRequest:
    """The device or card, with one memory limit for all processes or one for each."""
    limits: tuple[int, ...] = given["memory_limits"] or ()
    gpu = asked_gpu(given)
    if len(limits) > 1 and (gpu is not None or len(limits) != processes):
        raise UsageError(
            f"--memory-limit: {len(limits)} limits for {processes} "
            f"{'processes' if processes > 1 else 'process'}",
            hint="give one limit for all; under torchrun, one for each process works too",
        )
    differ = len(set(limits)) > 1
    return DeviceRequest(
        device=given["device"],
        memory_limit_bytes=None if differ or not limits else limits[0],
        gpu=gpu,
        rank_limits_bytes=limits if differ else (),
    )


def require_synchronisable(variants: Sequence[Variant], device: str | None) -> None:
    """Raise UsageError for SyncBatchNorm on the CPU."""
    if device == "cpu" and any(variant.norm is Norm.SYNC_BATCH for variant in variants):
        raise UsageError(
            "--norm sync-batch: PyTorch's SyncBatchNorm runs on GPUs only",
            hint="leave --norm sync-batch out, or predict: bsprobe run --gpu NAME --processes N",
        )


def asked_gpu(given: Mapping[str, Any]) -> Gpu | None:
    """The card to predict for, or None if none is named."""
    name, capacity, capability = given["gpu"], given["capacity"], given["compute_capability"]
    if name is not None and given["device"] is not None:
        raise UsageError("--gpu and --device exclude each other", hint="give one of the two")
    if name is not None and given["data_root"] is not None:
        raise UsageError("--gpu and --data exclude each other", hint="leave one of the two out")
    is_custom = name is not None and name.lower() == "custom"
    if not is_custom and (capacity is not None or capability is not None):
        raise UsageError(
            "--capacity and --compute-capability require --gpu custom",
            hint="add --gpu custom",
        )
    if not is_custom:
        return None if name is None else find_gpu(name)
    if capacity is None or capability is None:
        raise UsageError(
            "--gpu custom needs --capacity and --compute-capability",
            hint="for example --gpu custom --capacity 20GiB --compute-capability 8.6",
        )
    return custom_gpu(capacity, capability)
