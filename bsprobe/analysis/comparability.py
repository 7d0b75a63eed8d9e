"""Conditions for comparing two runs: facts that must be equal, and differences to report."""

import re
from collections.abc import Collection

from bsprobe.analysis.script_facts import environment_of
from bsprobe.analysis.thresholds import BATCHES, Metric
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import NotComparableError
from bsprobe.records.runs import Run
from bsprobe.records.units import format_bytes

_Fact = tuple[str, object, object, str]
"""The fact's name, the baseline's value, the run's value, and a hint."""
_ANEW = "make a new baseline in this environment"


def require_comparable(baseline: Run, run: Run, metrics: Collection[Metric]) -> None:
    """Reject two runs that cannot be compared.

    The minor version of torch always counts: kernels, their libraries and the operations that a
    prediction replays change between minors. The capacity counts only for batches, and not if it
    differs by a few MiB that other processes hold. CPU threads count only for throughput.

    Args:
        baseline: The run to compare with.
        run: The run to check.
        metrics: The metrics that are compared.

    Raises:
        NotComparableError: A fact that counts differs.
    """
    for fact in _must_be_equal(baseline, run, metrics):
        _require_equal(*fact)


def require_comparable_torch(baseline: Run, torch: str) -> None:
    """Reject a version of PyTorch whose runs cannot be compared, before anything runs.

    Args:
        baseline: The run to compare with.
        torch: The installed version.

    Raises:
        NotComparableError: The minor versions differ.
    """
    _require_equal(*_torch(environment_of(baseline).torch, torch))


def _require_equal(what: str, one: object, two: object, hint: str) -> None:
    if one != two:
        raise NotComparableError(
            f"not comparable: {what} of the baseline is {one}, of the run {two}", hint=hint
        )


def _torch(old: str, new: str) -> _Fact:
    return "the torch version", _minor(old), _minor(new), _ANEW


def _must_be_equal(baseline: Run, run: Run, metrics: Collection[Metric]) -> list[_Fact]:
    """All facts that count, the most fundamental first."""
    old, new = baseline.device, run.device
    facts: list[_Fact] = [
        ("the source", old.source, new.source, "compare measured runs with measured runs"),
        ("the device", old.name, new.name, "compare runs on the same device"),
        ("the command", _command(baseline), _command(run), "compare runs of one command"),
        ("--seconds", _seconds(baseline), _seconds(run), "give both the same"),
        _torch(environment_of(baseline).torch, environment_of(run).torch),
        ("the images", _images(baseline), _images(run), "give both --data, or neither"),
        (
            "the number of processes",
            baseline.processes,
            run.processes,
            "give both the same, by torchrun or by --processes",
        ),
        (
            "the setting of DistributedDataParallel",
            baseline.settings.ddp,
            run.settings.ddp,
            "give both the same --ddp",
        ),
        (
            "the evaluation pass of older versions",
            baseline.settings.evaluation_resolution,
            run.settings.evaluation_resolution,
            "make the older run again",
        ),
    ]
    if BATCHES & set(metrics) and not old.has_memory_of(new):
        facts.append(
            (
                "the memory",
                _capacity(baseline),
                _capacity(run),
                "give both the same --memory-limit, which leaves out what other processes hold",
            )
        )
    if BATCHES & set(metrics):
        multiples = (baseline.settings.batch_multiple, run.settings.batch_multiple)
        facts.append(("--batch-multiple", *multiples, "give both the same"))
    if Metric.SAFE_BATCH in metrics:
        facts.append(
            (
                "--headroom",
                baseline.settings.target.headroom,
                run.settings.target.headroom,
                "give both the same",
            )
        )
    if Metric.THROUGHPUT in metrics and new.kind is DeviceKind.CPU:
        threads = (baseline.environment.cpu_threads, run.environment.cpu_threads)
        facts.append(("the number of threads", *threads, "set OMP_NUM_THREADS"))
    return facts


def differences(baseline: Run, run: Run) -> tuple[str, ...]:
    """Return sentences on other differences, which may explain a change."""
    old, new = environment_of(baseline), environment_of(run)
    is_close = baseline.device.has_memory_of(run.device)
    pairs = (
        ("PyTorch", old.torch, new.torch),
        ("CUDA", old.cuda, new.cuda),
        ("cuDNN", old.cudnn, new.cudnn),
        ("the driver", baseline.device.driver, run.device.driver),
        ("PYTORCH_CUDA_ALLOC_CONF", old.cuda_alloc_conf, new.cuda_alloc_conf),
        ("bsprobe", old.bsprobe, new.bsprobe),
        (
            "TF32 convolutions",
            baseline.device.tf32_convolutions,
            run.device.tf32_convolutions,
        ),
        # Capacities that count as equal may still move a boundary by one image.
        *([("the usable memory", _capacity(baseline), _capacity(run))] if is_close else []),
        ("the search", baseline.settings.search, run.settings.search),
        ("the seed", baseline.settings.seed, run.settings.seed),
    )
    return tuple(
        f"{what} differs: {_shown(one)} in the baseline, {_shown(two)} in the run."
        for what, one, two in pairs
        if one != two
    )


def _command(run: Run) -> str:
    return "none, but a network" if run.settings.script is None else str(run.settings.script)


def _seconds(run: Run) -> float | None:
    return None if run.settings.script is None else run.settings.script.seconds


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def _minor(version: str) -> str:
    """`2.15` of `2.15.0+cu130`."""
    match = re.match(r"\d+\.\d+", version)
    return match[0] if match else version


def _images(run: Run) -> str:
    return "synthetic" if run.settings.data is None else "real"


def _capacity(run: Run) -> str:
    """The capacity in bytes, since different capacities may round to the same GiB."""
    capacity = run.device.capacity_bytes
    return f"{capacity} bytes ({format_bytes(capacity)})"
