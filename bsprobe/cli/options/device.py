"""Where the options ask to run: a device or a card, alone or as one of several processes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import Gpu, custom_gpu, find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.variants import Norm, Variant
from bsprobe.worker.ranks.launch import launched


def asked_processes(given: Mapping[str, Any]) -> int:
    """How many processes train together: those that torchrun started, or that are predicted."""
    launch = launched(os.environ)
    wanted: int | None = given["processes"]
    if launch is None and wanted in (None, 1):
        return 1
    if launch is None and given["gpu"] is None:
        raise UsageError(
            f"--processes {wanted}: bsprobe starts no processes that train together",
            hint=f"torchrun --nproc-per-node {wanted} -m bsprobe run, on the GPUs of this machine; "
            "or predict: add --gpu NAME",
        )
    if launch is None:
        assert wanted is not None  # noqa: S101 - seen above
        return wanted
    if given["gpu"] is not None:
        raise UsageError(
            "--gpu predicts, and torchrun starts processes that run",
            hint=f"without torchrun: bsprobe run --gpu NAME --processes {launch.processes}",
        )
    if wanted not in (None, launch.processes):
        raise UsageError(
            f"--processes {wanted}: torchrun started {launch.processes}", hint="leave it out"
        )
    return launch.processes


def asked_device(given: Mapping[str, Any], processes: int) -> DeviceRequest:
    """The device, with one memory limit for all processes or one for each."""
    limits: tuple[int, ...] = given["memory_limits"] or ()
    gpu = asked_gpu(given)
    if len(limits) > 1 and (gpu is not None or len(limits) != processes):
        raise UsageError(
            f"--memory-limit: {len(limits)} limits are for {len(limits)} processes under torchrun, "
            f"and there {'are' if processes > 1 else 'is'} {processes}",
            hint="give one limit for all",
        )
    differ = len(set(limits)) > 1
    return DeviceRequest(
        device=given["device"],
        memory_limit_bytes=None if differ or not limits else limits[0],
        gpu=gpu,
        rank_limits_bytes=limits if differ else (),
    )


def require_synchronisable(variants: Sequence[Variant], device: str | None) -> None:
    """Refuse SyncBatchNorm where PyTorch has none."""
    if device == "cpu" and any(variant.norm is Norm.SYNC_BATCH for variant in variants):
        raise UsageError(
            "--norm sync-batch: PyTorch's SyncBatchNorm runs on GPUs alone",
            hint="leave it out with --device cpu, or predict: bsprobe run --gpu NAME --processes N",
        )


def asked_gpu(given: Mapping[str, Any]) -> Gpu | None:
    """The card to predict for, or None where none is named."""
    name, capacity, capability = given["gpu"], given["capacity"], given["compute_capability"]
    if name is not None and given["device"] is not None:
        raise UsageError(
            "--gpu predicts and --device runs: they exclude each other", hint="give one of the two"
        )
    if name is not None and given["data_root"] is not None:
        raise UsageError(
            "--data needs a device that runs; --gpu predicts", hint="leave one of the two out"
        )
    is_custom = name is not None and name.lower() == "custom"
    if not is_custom and (capacity is not None or capability is not None):
        raise UsageError(
            "--capacity and --compute-capability describe a card that is not listed",
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
