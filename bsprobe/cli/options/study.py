"""The options of a study: from the command line to `StudySettings`, and back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bsprobe.analysis.recommendation import check_target, with_recipe
from bsprobe.cli.options.subject import require_segmentation
from bsprobe.cli.options.values import (
    BASE_BATCH,
    BASE_LR,
    LR_RULE,
    Command,
    count,
    number,
    whole_number,
)
from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.runs import DeviceRequest, Target
from bsprobe.records.trials import DataSource
from bsprobe.records.units import parse_bytes, parse_resolution
from bsprobe.records.variants import AXES, Variant
from bsprobe.study.records import StudySettings
from bsprobe.training.cityscapes.normalisation import InputNormalisation

_BATCHES = ASKED["batches"]


def batch_sizes(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of effective batches; ascending, each once."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        number = whole_number(part)
        if number is None or number not in _BATCHES:
            raise UsageError(
                f"--batches: '{part}' is no batch size",
                hint=f"give whole numbers, {_BATCHES}, for example 2,4,8",
            )
    if not parts:
        raise UsageError("--batches names nothing", hint="for example 2,4,8")
    return tuple(sorted({int(part) for part in parts}))


_OPTIONS = (
    click.option(
        "--data",
        "data_root",
        type=click.Path(path_type=Path),
        metavar="ROOT",
        help="Images to train and validate on: a folder in Cityscapes' layout.  [required]",
    ),
    click.option(
        "--batches",
        type=batch_sizes,
        metavar="LIST",
        default="2,4,8,16",
        show_default=True,
        help="Effective batches to compare.",
    ),
    count(
        "--seeds",
        "seed_count",
        "Trainings of each batch; without at least two no spread is known.",
        default=2,
    ),
    count(
        "--images",
        "images",
        "Training images that each training sees, augmented; rounded up until every batch "
        "divides it.",
        default=960,
    ),
    count(
        "--validations",
        "validations",
        "How often each network is validated while it trains.",
        default=8,
    ),
    count(
        "--micro-batch",
        "micro_batch",
        "The most images in one forward pass; larger batches are accumulated from the largest "
        "equal parts up to it.  [default: the whole batch, or what fits of it]",
    ),
    click.option(
        "--model",
        metavar="NAME",
        default="deeplabv2-resnet101",
        show_default=True,
        help="deeplabv2-resnet101, deeplabv2-resnet50, deeplabv2-mini (a small one, for trying "
        "things out), or torchvision:NAME for one of torchvision's segmentation models.",
    ),
    click.option(
        "--resolution",
        type=parse_resolution,
        metavar="HEIGHTxWIDTH",
        default="512x1024",
        show_default=True,
        help="Of the training crops, or cityscapes (1024x2048), cityscapes-half (512x1024).",
    ),
    *(
        click.option(
            axis.option,
            axis.field,
            type=click.Choice([str(value) for value in axis.kind]),
            default=str(axis.defaults[0]),
            show_default=True,
            help=axis.description,
        )
        for axis in AXES
    ),
    click.option(
        "--device",
        metavar="cuda[:N]|cpu",
        help="Where to train.  [default: the GPU of this machine]",
    ),
    click.option(
        "--memory-limit",
        type=parse_bytes,
        metavar="SIZE",
        help="Let the device answer as one with this much memory (on a GPU: what PyTorch may "
        "reserve).  [default: all there is]",
    ),
    BASE_LR,
    BASE_BATCH,
    LR_RULE,
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Start from a state dict: a torchvision ResNet's, or a common DeepLab checkpoint.  "
        "[default: from scratch]",
    ),
    click.option(
        "--input-normalisation",
        type=click.Choice([str(each) for each in InputNormalisation]),
        help="What the weights expect of the images.  [default: what their names tell, else "
        "imagenet-rgb without weights]",
    ),
    count("--subset", "subset", "Train on the first N images only.  [default: all]"),
    count(
        "--workers",
        "workers",
        "Processes that load images; they change no figure but the times.  [default: up to 4 "
        "for a GPU, none for the CPU]",
    ),
    number(
        "--training-timeout",
        "training_timeout_seconds",
        "SECONDS",
        "Give a training up after this long.",
        default=86400,
    ),
    count("--seed", "seed", "The first seed; the others follow.", default=0),
)


def study_options(command: Command) -> Command:
    """Give a command every option that `study_settings_from` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def study_settings_from(given: Mapping[str, Any]) -> StudySettings:
    """The options as settings; paths as they were typed, for reports are made to be shared."""
    variant = Variant(
        model=given["model"],
        resolution=given["resolution"],
        **{axis.field: axis.kind(given[axis.field]) for axis in AXES},  # type: ignore[arg-type] # each axis names the field of its own kind
    )
    require_segmentation((variant,), "bsprobe study")
    target = Target(
        base_batch=given["base_batch"],
        base_learning_rate=given["base_lr"],
        lr_rule=given["lr_rule"],
    )
    check_target(target)
    weights = given["weights"]
    normalisation = given["input_normalisation"]
    settings = StudySettings(
        variant=variant,
        device=DeviceRequest(device=given["device"], memory_limit_bytes=given["memory_limit"]),
        batches=given["batches"],
        seeds=tuple(range(given["seed"], given["seed"] + given["seeds"])),
        images=given["images"],
        validations=given["validations"],
        micro_batch=given["micro_batch"],
        target=with_recipe(target),  # whatever the network: a training needs a rate
        data=DataSource(root=str(given["data_root"] or ""), subset=given["subset"]),
        workers=given["workers"],
        training_timeout_seconds=given["training_timeout"],
        weights=None if weights is None else str(weights),
        input_normalisation=None if normalisation is None else InputNormalisation(normalisation),
    )
    if settings.images_seen not in ASKED["images_seen"]:
        raise UsageError(
            "--batches: no number of images that all of them divide is small enough to train on",
            hint=f"give batches that divide {ASKED['images_seen'].most} images or fewer, for "
            "example 2,4,8",
        )
    return settings


STUDY_FACETS: dict[str, Callable[[StudySettings], object]] = {
    "data_root": lambda s: s.data.root,
    "batches": lambda s: s.batches,
    "seeds": lambda s: len(s.seeds),
    "images": lambda s: s.images,
    "validations": lambda s: s.validations,
    "micro_batch": lambda s: s.micro_batch,
    "model": lambda s: s.variant.model,
    "resolution": lambda s: s.variant.resolution,
    "device": lambda s: s.device.device,
    "memory_limit": lambda s: s.device.memory_limit_bytes,
    "base_lr": lambda s: s.target.base_learning_rate,
    "base_batch": lambda s: s.target.base_batch,
    "lr_rule": lambda s: s.target.lr_rule,
    "weights": lambda s: s.weights,
    "input_normalisation": lambda s: s.input_normalisation,
    "subset": lambda s: s.data.subset,
    "workers": lambda s: s.workers,
    "training_timeout": lambda s: s.training_timeout_seconds,
    "seed": lambda s: s.seeds[0],
} | {axis.field: lambda s, field=axis.field: getattr(s.variant, field) for axis in AXES}
"""The setting that each option decides: a resumed study must be asked for the same."""
