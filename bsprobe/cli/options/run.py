"""The options of a run, and their conversion to `Settings`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bsprobe.analysis.recommendation import check_target
from bsprobe.cli.options.device import (
    CAPACITY,
    COMPUTE_CAPABILITY,
    asked_device,
    asked_processes,
    require_synchronisable,
)
from bsprobe.cli.options.subject import (
    SUBJECT_FACETS,
    require_segmentation,
    subject_options,
    variants_from,
)
from bsprobe.cli.options.values import LR_RULE, Command, byte_sizes, count, number
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import UsageError
from bsprobe.records.runs import (
    MAX_BATCH,
    REFERENCE,
    TRIAL_TIMEOUT_SECONDS,
    SearchMethod,
    Settings,
    Target,
)
from bsprobe.records.trials import DataSource, Ddp
from bsprobe.records.units import parse_resolution

_CIRCUMSTANCES = (
    click.option(
        "--device",
        metavar="cuda[:N]|cpu",
        help="Device to measure on.  [default: the GPU of this machine; without one, predict]",
    ),
    click.option(
        "--gpu",
        metavar="NAME",
        help="Predict for this card instead of measuring; `bsprobe gpus` lists the cards. For any "
        "other card: custom.",
    ),
    CAPACITY,
    COMPUTE_CAPABILITY,
    click.option(
        "--memory-limit",
        "memory_limits",
        type=byte_sizes,
        metavar="SIZE",
        help="Limit the memory of the device, for example to 11GiB. Under torchrun, a list gives "
        "each process its own limit: 11GiB,8GiB.  [default: all of it]",
    ),
    count(
        "--processes",
        "processes",
        "With --gpu: number of data-parallel processes, each on such a card; one of them is "
        "predicted. To measure several, use torchrun.  [default: 1]",
    ),
    click.option(
        "--ddp",
        type=click.Choice([str(each) for each in Ddp]),
        default=str(Ddp.DEFAULT),
        show_default=True,
        help="With several processes: option of DistributedDataParallel. The default fails if a "
        "parameter gets no gradient.",
    ),
    count(
        "--target-batch",
        "batch",
        "Effective batch to train with, in images; accumulated if it does not fit.  "
        f"[default: {REFERENCE.batch} for DeepLabV2, as in its paper; for others the best that "
        "fits]",
    ),
    number(
        "--base-lr",
        "base_learning_rate",
        "RATE",
        "Learning rate that you use at --base-batch.  "
        f"[default: {REFERENCE.base_learning_rate} for DeepLabV2; for others only a factor is "
        "computed]",
    ),
    count(
        "--base-batch",
        "base_batch",
        "Effective batch that --base-lr belongs to, in images.  "
        f"[default: {REFERENCE.base_batch} for DeepLabV2]",
    ),
    count(
        "--base-updates",
        "base_updates",
        "Optimizer updates at --base-batch; scaled so that the number of images seen is the same.",
        default=REFERENCE.base_updates,
    ),
    LR_RULE,
    number(
        "--headroom",
        "headroom",
        "SHARE",
        "Share of the memory that the safe batch leaves free: 0.05 or 5%.",
        default=REFERENCE.headroom,
    ),
    count("--max-batch", "max_batch", "Largest batch to try, in images.", default=MAX_BATCH),
    click.option(
        "--search",
        type=click.Choice([str(method) for method in SearchMethod]),
        default=str(SearchMethod.ORDINARY),
        show_default=True,
        help="Search method. ordinary doubles the batch; guided starts near the predicted boundary "
        "(GPU only). Both verify the boundary.",
    ),
    count("--steps", "measured_steps", "Measured steps per trial.", default=3),
    count("--warmup-steps", "warmup_steps", "Steps per trial before the measured ones.", default=1),
    click.option(
        "--data",
        "data_root",
        type=click.Path(path_type=Path),
        metavar="ROOT",
        help="Folder of images to train the trials on, in the layout of Cityscapes.  "
        "[default: synthetic images]",
    ),
    count("--subset", "subset", "With --data: number of images to use.  [default: all]"),
    click.option("--evaluate", is_flag=True, help="Probe the evaluation pass too.  [default: off]"),
    click.option(
        "--evaluate-at",
        type=parse_resolution,
        metavar="HEIGHTxWIDTH",
        help="With --evaluate: size of the predictions, in pixels.  [default: 1024x2048]",
    ),
    number(
        "--trial-timeout",
        "trial_timeout_seconds",
        "SECONDS",
        "Stop a trial after this time.",
        default=f"{TRIAL_TIMEOUT_SECONDS:g}",
    ),
    number(
        "--time-limit",
        "time_limit_seconds",
        "SECONDS",
        "Stop searching a variant once its trials have taken this time.  [default: no limit]",
    ),
    count("--seed", "seed", "Seed of the synthetic images.", default=0),
)
"""All options of a run except those of the workload."""


def settings_options(command: Command) -> Command:
    """Add the options that `settings_from` reads to a command."""
    for option in reversed(_CIRCUMSTANCES):
        command = option(command)
    return subject_options(command)


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Convert the options to settings.

    Raises:
        UsageError: Options contradict each other.
    """
    if given["evaluate_at"] is not None and not given["evaluate"]:
        raise UsageError("--evaluate-at requires --evaluate", hint="add --evaluate")
    if given["subset"] is not None and given["data_root"] is None:
        raise UsageError("--subset requires --data", hint="add --data ROOT")
    processes = asked_processes(given)
    variants = variants_from(given, processes)
    for option, is_given in (("--evaluate", given["evaluate"]), ("--data", given["data_root"])):
        if is_given:
            require_segmentation(variants, option)
    native = parse_resolution("cityscapes") if given["evaluate"] else None
    _check_search(given)
    require_synchronisable(variants, given["device"])
    target = Target(
        batch=given["target_batch"],
        base_batch=given["base_batch"],
        base_learning_rate=given["base_lr"],
        base_updates=given["base_updates"],
        lr_rule=given["lr_rule"],
        headroom=given["headroom"],
    )
    check_target(target)
    return Settings(
        variants=variants,
        device=asked_device(given, processes),
        target=target,
        max_batch=given["max_batch"],
        trial_timeout_seconds=given["trial_timeout"],
        search=SearchMethod(given["search"]),
        time_limit_seconds=given["time_limit"],
        warmup_steps=given["warmup_steps"],
        measured_steps=given["steps"],
        evaluation_resolution=given["evaluate_at"] or native,
        data=_data_source(given["data_root"], given["subset"]),
        seed=given["seed"],
        processes=processes,
        ddp=_ddp(Ddp(given["ddp"]), processes),
    )


def _ddp(asked: Ddp, processes: int) -> Ddp:
    """Raise UsageError for an option of DDP with one process."""
    if asked is not Ddp.DEFAULT and processes == 1:
        raise UsageError(
            f"--ddp {asked} requires several processes",
            hint="leave --ddp out, or start several: torchrun --nproc-per-node N -m bsprobe run; "
            "or predict: --gpu NAME --processes N",
        )
    return asked


def _check_search(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a guided search on a device that has none, before it is opened."""
    from bsprobe.engine.predict import check_can_guide

    if given["search"] == SearchMethod.GUIDED:
        if given["gpu"] is not None:
            check_can_guide(DeviceKind.SIMULATED)
        elif given["device"] is not None:
            check_can_guide(given["device"])


def _data_source(root: Path | None, subset: int | None) -> DataSource | None:
    """The folder of the images, absolute: a run may be resumed from another folder."""
    return None if root is None else DataSource(root=str(root.resolve()), subset=subset)


FACETS: dict[str, Callable[[Settings], object]] = {
    "device": lambda s: s.device.device,
    "gpu": lambda s: s.device.gpu,
    "capacity": lambda s: s.device.gpu,
    "compute_capability": lambda s: s.device.gpu,
    "memory_limits": lambda s: (s.device.memory_limit_bytes, s.device.rank_limits_bytes),
    "processes": lambda s: s.processes,
    "ddp": lambda s: s.ddp,
    "target_batch": lambda s: s.target.batch,
    "base_batch": lambda s: s.target.base_batch,
    "base_lr": lambda s: s.target.base_learning_rate,
    "base_updates": lambda s: s.target.base_updates,
    "lr_rule": lambda s: s.target.lr_rule,
    "headroom": lambda s: s.target.headroom,
    "max_batch": lambda s: s.max_batch,
    "search": lambda s: s.search,
    "steps": lambda s: s.measured_steps,
    "warmup_steps": lambda s: s.warmup_steps,
    "evaluate": lambda s: s.evaluation_resolution is not None,
    "evaluate_at": lambda s: s.evaluation_resolution,
    "trial_timeout": lambda s: s.trial_timeout_seconds,
    "time_limit": lambda s: s.time_limit_seconds,
    "data_root": lambda s: s.data and s.data.root,
    "subset": lambda s: s.data and s.data.subset,
    "seed": lambda s: s.seed,
} | {name: lambda s, facet=facet: facet(s.variants) for name, facet in SUBJECT_FACETS.items()}
"""By option, the setting that it decides; `--resume` compares them."""
