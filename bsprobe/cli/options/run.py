"""The options that say what a run makes: from the command line to `Settings`, and back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bsprobe.analysis.recommendation import check_target
from bsprobe.cli.options.device import asked_device, asked_processes, require_synchronisable
from bsprobe.cli.options.subject import (
    SUBJECT_FACETS,
    require_segmentation,
    subject_options,
    variants_from,
)
from bsprobe.cli.options.values import (
    BASE_BATCH,
    BASE_LR,
    LR_RULE,
    Command,
    byte_sizes,
    count,
    number,
)
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
from bsprobe.records.units import parse_bytes, parse_resolution

_CIRCUMSTANCES = (
    click.option(
        "--device",
        metavar="cuda[:N]|cpu",
        help="Where to run.  [default: the GPU of this machine; without one, predict]",
    ),
    click.option(
        "--gpu",
        metavar="NAME",
        help="Predict for this card instead of running; `bsprobe gpus` lists them, custom is one "
        "that you describe.",
    ),
    click.option(
        "--capacity", type=parse_bytes, metavar="SIZE", help="With --gpu custom: its memory."
    ),
    click.option(
        "--compute-capability", metavar="X.Y", help="With --gpu custom: its compute capability."
    ),
    click.option(
        "--memory-limit",
        "memory_limits",
        type=byte_sizes,
        metavar="SIZE",
        help="Let the device answer as one with this much memory, for example 11GiB: it caps the "
        "capacity, not the architecture. Under torchrun also one for each process, for example "
        "11GiB,8GiB.  [default: all there is]",
    ),
    count(
        "--processes",
        "processes",
        "With --gpu: predict one of N processes that train together, each on such a card. "
        "Where they are to run, torchrun starts them.  [default: 1]",
    ),
    click.option(
        "--ddp",
        type=click.Choice([str(each) for each in Ddp]),
        default=str(Ddp.DEFAULT),
        show_default=True,
        help="With several processes, where parameters get no gradient: the argument that "
        "DistributedDataParallel is given. Without one it stops there.",
    ),
    count(
        "--target-batch",
        "batch",
        "Effective batch to train with; reached by accumulation where it does not fit.  "
        f"[default: {REFERENCE.batch} for DeepLabV2, as its paper has it; for others the best "
        "batch that fits]",
    ),
    BASE_LR,
    BASE_BATCH,
    count(
        "--base-updates",
        "base_updates",
        "Optimizer updates of the recipe; scaled so that the images seen stay constant.",
        default=REFERENCE.base_updates,
    ),
    LR_RULE,
    number(
        "--headroom",
        "headroom",
        "SHARE",
        "Share of the memory, in bytes, that the safe batch leaves free.",
        default=REFERENCE.headroom,
    ),
    count("--max-batch", "max_batch", "Never try a larger batch than this.", default=MAX_BATCH),
    click.option(
        "--search",
        type=click.Choice([str(method) for method in SearchMethod]),
        default=str(SearchMethod.ORDINARY),
        show_default=True,
        help="How to look for the boundary: by doubling, or, on a GPU, where a prediction says "
        "that it is. The proof is the same.",
    ),
    count("--steps", "measured_steps", "Measured steps of each trial.", default=3),
    count("--warmup-steps", "warmup_steps", "Steps before the measured ones.", default=1),
    click.option(
        "--data",
        "data_root",
        type=click.Path(path_type=Path),
        metavar="ROOT",
        help="Feed the trials with real images: a folder in Cityscapes' layout.  "
        "[default: synthetic]",
    ),
    count("--subset", "subset", "With --data: use only the first N images.  [default: all]"),
    click.option(
        "--evaluate", is_flag=True, help="Also probe the evaluation pass.  [default: off]"
    ),
    click.option(
        "--evaluate-at",
        type=parse_resolution,
        metavar="HEIGHTxWIDTH",
        help="With --evaluate: size of the predictions.  [default: 1024x2048, Cityscapes' labels]",
    ),
    number(
        "--trial-timeout",
        "trial_timeout_seconds",
        "SECONDS",
        "Give a trial up after this long.",
        default=f"{TRIAL_TIMEOUT_SECONDS:g}",
    ),
    number(
        "--time-limit",
        "time_limit_seconds",
        "SECONDS",
        "Stop searching a variant once its trials took this long.  [default: no limit]",
    ),
    count("--seed", "seed", "Seed of the synthetic images.", default=0),
)
"""Options for the device, the target and the time limits."""


def settings_options(command: Command) -> Command:
    """Give a command every option that `settings_from` reads."""
    for option in reversed(_CIRCUMSTANCES):
        command = option(command)
    return subject_options(command)


def settings_from(given: Mapping[str, Any]) -> Settings:
    """The options as settings."""
    if given["evaluate_at"] is not None and not given["evaluate"]:
        raise UsageError("--evaluate-at does nothing without --evaluate", hint="add --evaluate")
    if given["subset"] is not None and given["data_root"] is None:
        raise UsageError("--subset does nothing without --data", hint="add --data ROOT")
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
    """Refuse what one process has no use for."""
    if asked is not Ddp.DEFAULT and processes == 1:
        raise UsageError(
            f"--ddp {asked} does nothing with one process",
            hint="leave it out; several are started by torchrun, or predicted by --gpu NAME "
            "--processes N",
        )
    return asked


def _check_search(given: Mapping[str, Any]) -> None:
    """Refuse now what the device, once it is open, would be refused for."""
    from bsprobe.engine.predict import check_can_guide

    if given["search"] == SearchMethod.GUIDED:
        if given["gpu"] is not None:
            check_can_guide(DeviceKind.SIMULATED)
        elif given["device"] is not None:
            check_can_guide(given["device"])


def _data_source(root: Path | None, subset: int | None) -> DataSource | None:
    """The folder of the images; absolute, for a resumed run may be started elsewhere."""
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
"""The setting that each option decides: a resumed run must be asked for the same."""
