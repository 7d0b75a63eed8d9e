"""The options of a run, and their conversion to `Settings`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bsprobe.cli.options.device import (
    CAPACITY,
    COMPUTE_CAPABILITY,
    asked_device,
    asked_processes,
    require_synchronisable,
)
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.recipe import asked_target
from bsprobe.cli.options.script import script_options, script_settings
from bsprobe.cli.options.subject import (
    SUBJECT_FACETS,
    require_segmentation,
    subject_options,
    variants_from,
)
from bsprobe.cli.options.values import (
    LR_RULE,
    MOST,
    Command,
    byte_sizes,
    count,
    number,
    validation_batch,
    validation_size,
)
from bsprobe.cli.printing import show_on_stderr
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import UsageError
from bsprobe.records.runs import (
    MAX_BATCH,
    REFERENCE,
    TRIAL_TIMEOUT_SECONDS,
    SearchMethod,
    Settings,
)
from bsprobe.records.scripts import WARMUP_STEPS
from bsprobe.records.trials import DataSource, Ddp, Validation
from bsprobe.records.units import Resolution, parse_resolution
from bsprobe.records.variants import Variant

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
    count(
        "--warmup-steps",
        "warmup_steps",
        f"Steps per trial before the measured ones.  [default: 1; with a command {WARMUP_STEPS}]",
    ),
    click.option(
        "--data",
        "data_root",
        type=PATH,
        metavar="ROOT",
        help="Folder of images to train the trials on, in the layout of Cityscapes.  "
        "[default: synthetic images]",
    ),
    count("--subset", "subset", "With --data: number of images to use.  [default: all]"),
    click.option(
        "--validate",
        type=validation_size,
        metavar="HEIGHTxWIDTH",
        help="After the training steps of each trial, run validation images of this size in "
        "inference mode, in the same process.  [default: off]",
    ),
    click.option(
        "--validate-batch",
        type=validation_batch,
        metavar="N|max",
        help="With --validate: images in a validation batch; max finds the largest one beside the "
        "recommended step, with more trials, whatever --max-batch is.  [default: 1]",
    ),
    click.option("--evaluate", is_flag=True, hidden=True),
    click.option("--evaluate-at", type=parse_resolution, hidden=True),
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
    return subject_options(script_options(command))


def settings_from(given: Mapping[str, Any]) -> Settings:
    """Convert the options to settings.

    Raises:
        UsageError: Options contradict each other.
    """
    _check_multiple(given)
    return script_settings(given) or _settings_of_network(given)


def _settings_of_network(given: Mapping[str, Any]) -> Settings:
    if given["subset"] is not None and given["data_root"] is None:
        raise UsageError("--subset requires --data", hint="add --data ROOT")
    processes = asked_processes(given)
    variants = variants_from(given, processes)
    if given["data_root"] is not None:
        require_segmentation(variants, "--data")
    validation = _validation(given, variants)
    _check_search(given)
    require_synchronisable(variants, given["device"])
    return Settings(
        variants=variants,
        device=asked_device(given, processes),
        target=asked_target(given),
        max_batch=given["max_batch"],
        trial_timeout_seconds=given["trial_timeout"],
        search=SearchMethod(given["search"]),
        time_limit_seconds=given["time_limit"],
        warmup_steps=given["warmup_steps"] or 1,
        batch_multiple=given["batch_multiple"],
        measured_steps=given["steps"],
        validation=validation,
        seeks_validation_batch=given["validate_batch"] == MOST,
        data=_data_source(given["data_root"], given["subset"]),
        seed=given["seed"],
        processes=processes,
        ddp=_ddp(Ddp(given["ddp"]), processes),
    )


def _validation(given: Mapping[str, Any], variants: Sequence[Variant]) -> Validation | None:
    """The validation after the training steps, or None.

    Raises:
        UsageError: An option lacks another, or excludes it.
    """
    size = given["validate"] or _evaluated(given)
    if size is None:
        if given["validate_batch"] is not None:
            raise UsageError("--validate-batch requires --validate", hint="add --validate SIZE")
        return None
    for variant in variants:
        if variant.own.batches is not None:
            raise UsageError(
                f"--validate and --batch-from {variant.own.batches} exclude each other",
                hint="leave --validate out: the inputs of the network are not known to be images",
            )
        trained = variant.resolution  # None if the network knows its size
        if (size.slices is None) is not (trained is None or trained.slices is None):
            raise UsageError(
                f"--validate {size} and the training size {trained or 'of images'} differ in "
                "their dimensions",
                hint="give as many sides as the training size has",
            )
    batch = given["validate_batch"]
    return Validation(resolution=size, batch_size=1 if batch in (None, MOST) else batch)


def _evaluated(given: Mapping[str, Any]) -> Resolution | None:
    """The size of `--evaluate`, the older name of `--validate`, or None."""
    size = given["evaluate_at"]
    if size is None and not given["evaluate"]:
        return None
    found = size or parse_resolution("cityscapes")
    show_on_stderr(f"warning: --evaluate is deprecated: type --validate {found}")
    return found


def _ddp(asked: Ddp, processes: int) -> Ddp:
    """Raise UsageError for an option of DDP with one process."""
    if asked is not Ddp.DEFAULT and processes == 1:
        raise UsageError(
            f"--ddp {asked} requires several processes",
            hint="leave --ddp out, or start several: torchrun --nproc-per-node N -m bsprobe run; "
            "or predict: --gpu NAME --processes N",
        )
    return asked


def _check_multiple(given: Mapping[str, Any]) -> None:
    """Raise UsageError if the largest batch is below the smallest multiple."""
    if given["batch_multiple"] > given["max_batch"]:
        raise UsageError(
            f"--batch-multiple {given['batch_multiple']} is more than --max-batch "
            f"{given['max_batch']}",
            hint="give a smaller multiple or a larger --max-batch",
        )


def _check_search(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a guided search on a device that has none, before it is opened."""
    from bsprobe.engine.predict import check_can_guide

    if given["search"] == SearchMethod.GUIDED:
        if given["batch_multiple"] > 1:
            raise UsageError(
                "--batch-multiple and --search guided exclude each other",
                hint="leave --search guided out",
            )
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
    "batch_multiple": lambda s: s.batch_multiple,
    "command": lambda s: s.script and s.script.command,
    "seconds": lambda s: s.script and s.script.seconds,
    "search": lambda s: s.search,
    "steps": lambda s: s.measured_steps,
    "warmup_steps": lambda s: s.warmup_steps,
    "validate": lambda s: s.validation and s.validation.resolution,
    "validate_batch": lambda s: (s.validation, s.seeks_validation_batch),
    "evaluate": lambda s: s.validation and s.validation.resolution,
    "evaluate_at": lambda s: s.validation and s.validation.resolution,
    "trial_timeout": lambda s: s.trial_timeout_seconds,
    "time_limit": lambda s: s.time_limit_seconds,
    "data_root": lambda s: s.data and s.data.root,
    "subset": lambda s: s.data and s.data.subset,
    "seed": lambda s: s.seed,
} | {name: lambda s, facet=facet: facet(s.variants) for name, facet in SUBJECT_FACETS.items()}
"""By option, the setting that it decides; `--resume` compares them."""
