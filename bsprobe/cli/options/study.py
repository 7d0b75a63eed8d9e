"""The options of a study, and their conversion to `StudySettings`."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from bsprobe.analysis.recommendation import check_target, with_recipe
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.subject import require_segmentation
from bsprobe.cli.options.values import LR_RULE, Command, count, number, whole_number
from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.runs import REFERENCE, DeviceRequest, Target
from bsprobe.records.trials import DataSource
from bsprobe.records.units import parse_bytes, parse_resolution
from bsprobe.records.variants import AXES, Variant
from bsprobe.study.records import StudySettings
from bsprobe.training.cityscapes.normalisation import InputNormalisation

_BATCHES = ASKED["batches"]


def batch_sizes(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of effective batches; sorted, without duplicates."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        number = whole_number(part)
        if number is None or number not in _BATCHES:
            raise UsageError(
                f"--batches: '{part}' is not a batch size",
                hint=f"give whole numbers, {_BATCHES}, for example 2,4,8",
            )
    if not parts:
        raise UsageError("--batches is empty", hint="for example --batches 2,4,8")
    return tuple(sorted({int(part) for part in parts}))


_OPTIONS = (
    click.option(
        "--data",
        "data_root",
        type=PATH,
        metavar="ROOT",
        help="Folder of training and validation images, in the layout of Cityscapes.  [required]",
    ),
    click.option(
        "--batches",
        type=batch_sizes,
        metavar="LIST",
        default="2,4,8,16",
        show_default=True,
        help="Effective batches to compare, in images.",
    ),
    count(
        "--seeds",
        "seed_count",
        "Trainings per batch; at least 2 show the spread.",
        default=2,
    ),
    count(
        "--images",
        "images",
        "Augmented training images per training; rounded up to a multiple of every batch.",
        default=960,
    ),
    count(
        "--validations",
        "validations",
        "Validations during each training.",
        default=8,
    ),
    count(
        "--micro-batch",
        "micro_batch",
        "Most images in one forward pass; larger batches are accumulated in equal parts.  "
        "[default: the whole batch, or the largest part that fits]",
    ),
    click.option(
        "--model",
        metavar="NAME",
        default="deeplabv2-resnet101",
        show_default=True,
        help="deeplabv2-resnet101, deeplabv2-resnet50, deeplabv2-mini (small, for trying things "
        "out), or torchvision:NAME for a segmentation network of torchvision.",
    ),
    click.option(
        "--resolution",
        type=parse_resolution,
        metavar="HEIGHTxWIDTH",
        default="512x1024",
        show_default=True,
        help="Size of the training crops, in pixels; also cityscapes (1024x2048) and "
        "cityscapes-half (512x1024).",
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
        help="Device to train on.  [default: the GPU of this machine]",
    ),
    click.option(
        "--memory-limit",
        type=parse_bytes,
        metavar="SIZE",
        help="Limit the memory of the device, for example to 11GiB; on a GPU it is the most that "
        "PyTorch may reserve.  [default: all of it]",
    ),
    number(
        "--base-lr",
        "base_learning_rate",
        "RATE",
        f"Learning rate that you use at --base-batch.  [default: {REFERENCE.base_learning_rate}]",
    ),
    count(
        "--base-batch",
        "base_batch",
        f"Effective batch that --base-lr belongs to, in images.  [default: {REFERENCE.base_batch}]",
    ),
    LR_RULE,
    click.option(
        "--weights",
        type=PATH,
        metavar="PATH",
        help="State dict to start from: of a torchvision ResNet, or a DeepLab checkpoint.  "
        "[default: from scratch]",
    ),
    click.option(
        "--input-normalisation",
        type=click.Choice([str(each) for each in InputNormalisation]),
        help="Input normalisation that the weights expect.  [default: detected from the parameter "
        "names; imagenet-rgb without --weights]",
    ),
    count("--subset", "subset", "Number of images to train on.  [default: all]"),
    count(
        "--workers",
        "workers",
        "Processes that load images; only times depend on it.  [default: up to 4 on a GPU, 0 on "
        "the CPU]",
    ),
    number(
        "--training-timeout",
        "training_timeout_seconds",
        "SECONDS",
        "Stop a training after this time.",
        default=86400,
    ),
    count("--seed", "seed", "First seed; the others count up from it.", default=0),
)


def study_options(command: Command) -> Command:
    """Add the options that `study_settings_from` reads to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def study_settings_from(given: Mapping[str, Any]) -> StudySettings:
    """Convert the options to settings.

    Paths stay as typed, because reports are shared.

    Raises:
        UsageError: A value is out of range, or options contradict each other.
    """
    variant = Variant(
        model=given["model"],
        resolution=given["resolution"],
        **{axis.field: axis.kind(given[axis.field]) for axis in AXES},  # type: ignore[arg-type] # each axis has the type of its field
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
        target=with_recipe(target),  # unlike a run, a training needs a rate for any network
        data=DataSource(root=str(given["data_root"] or ""), subset=given["subset"]),
        workers=given["workers"],
        training_timeout_seconds=given["training_timeout"],
        weights=None if weights is None else str(weights),
        input_normalisation=None if normalisation is None else InputNormalisation(normalisation),
    )
    if settings.images_seen not in ASKED["images_seen"]:
        raise UsageError(
            f"--batches: the least common multiple of {','.join(map(str, settings.batches))} is "
            f"more than {ASKED['images_seen'].most} images",
            hint="give batches with a smaller common multiple, for example 2,4,8",
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
"""By option, the setting that it decides; `--resume` compares them."""
