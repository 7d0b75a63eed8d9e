"""The options of the workload, and their conversion to the matrix of variants."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from bsprobe.cli.options.values import (
    Command,
    argument,
    axis_options,
    callable_name,
    checkpoint_patterns,
    count,
    input_size,
    loss_name,
    model_names,
    resolutions,
)
from bsprobe.records.errors import UsageError
from bsprobe.records.habits import COMMONEST, parsed_habits
from bsprobe.records.matrix import matrix
from bsprobe.records.units import Resolution
from bsprobe.records.variants import AXES, DEFAULT_RESOLUTION, RGB, Variant
from bsprobe.records.workload import BATCHES_SEEN, LOSSES, OwnParts, Problem

SUBJECT_OPTIONS = (
    click.option(
        "--model",
        "models",
        type=model_names,
        metavar="LIST",
        default="deeplabv2-resnet101",
        show_default=True,
        help="deeplabv2-resnet101, deeplabv2-resnet50, deeplabv2-mini (small, for trying things "
        "out), torchvision:NAME, timm:NAME, smp:ARCHITECTURE (segmentation_models_pytorch), "
        "hf:CONFIG.json (transformers), or your own class, function or object as "
        "PACKAGE.MODULE:NAME or FILE.py:NAME.",
    ),
    click.option(
        "--model-arg",
        "model_args",
        type=argument,
        metavar="NAME=VALUE",
        multiple=True,
        help="Argument for the class or function of the network: a Python or JSON literal, else "
        "text. Repeatable.",
    ),
    click.option(
        "--resolution",
        "resolutions",
        type=resolutions,
        metavar="LIST",
        help="Image sizes, HEIGHTxWIDTH in pixels; also cityscapes (1024x2048) and "
        "cityscapes-half (512x1024).  "
        f"[default: {DEFAULT_RESOLUTION}; for classifiers their native size]",
    ),
    click.option(
        "--input",
        "input_size",
        type=input_size,
        metavar="CxHxW",
        help="Channels and size, instead of --resolution: 4x512x1024, or for volumes 1x96x96x96 "
        "(channels, slices, height, width).  [default: 3 channels]",
    ),
    click.option(
        "--loss",
        type=loss_name,
        metavar="NAME",
        help="pixel-cross-entropy, image-cross-entropy, or PACKAGE.MODULE:CALLABLE that takes "
        "outputs and targets.  [default: the cross-entropy of the model's task]",
    ),
    click.option(
        "--optimizer-from",
        type=callable_name("--optimizer-from"),
        metavar="NAME",
        help="PACKAGE.MODULE:CALLABLE that takes the network and returns its optimizer, instead of "
        "--optimizer.",
    ),
    click.option(
        "--batch-from",
        type=callable_name("--batch-from"),
        metavar="NAME",
        help="PACKAGE.MODULE:CALLABLE that takes a batch size and returns inputs and targets, "
        "instead of --resolution.",
    ),
    count(
        "--batches-seen",
        "batches_seen",
        "With --batch-from: number of batches to draw, each with its own seed. If their shapes "
        f"differ, the largest is used.  [default: {BATCHES_SEEN}]",
    ),
    click.option(
        "--loop",
        "habits",
        type=parsed_habits,
        metavar="LIST",
        help="Details of your training loop that change its memory: "
        "zero-grad=start|before-backward|end, gradients=none|zero, batch=kept|moved|overlapping, "
        "outputs=dropped|step|kept.  "
        "[default: zero-grad=end, gradients=none, batch=kept, outputs=kept]",
    ),
    click.option(
        "--checkpoint-blocks",
        type=checkpoint_patterns,
        metavar="PATTERN",
        help="With --checkpointing on: modules to recompute, as patterns of their names, for "
        "example 'encoder.layer*,decoder.*'.  [default: the network's own checkpointing, else its "
        "repeated blocks]",
    ),
)
"""Options for the network and its training, without the axes of the matrix."""


def subject_options(command: Command) -> Command:
    """Add the options that `variants_from` reads to a command."""
    for option in reversed((*SUBJECT_OPTIONS, *axis_options())):
        command = option(command)
    return command


def variants_from(given: Mapping[str, Any], processes: int = 1) -> tuple[Variant, ...]:
    """The matrix of variants that the options span.

    Args:
        given: The options, by parameter.
        processes: Data-parallel processes that train each variant.

    Raises:
        UsageError: Options contradict each other.
    """
    own = OwnParts(
        model_args=_each_once(given["model_args"]),
        loss=given["loss"],
        optimizer=given["optimizer_from"],
        batches=given["batch_from"],
        batches_seen=_batches_seen(given),
        habits=given["habits"] or COMMONEST,
        checkpoint_blocks=given["checkpoint_blocks"],
    )
    channels, sizes = _images(given, own)
    return matrix(
        models=given["models"],
        resolutions=sizes,
        choices={axis.field: given[axis.field] for axis in AXES},
        processes=processes,
        channels=channels,
        own=own,
    )


def _batches_seen(given: Mapping[str, Any]) -> int:
    """The number of batches to draw; UsageError if there is no callable to draw them from."""
    asked: int | None = given["batches_seen"]
    if given["batch_from"] is not None:
        return asked or BATCHES_SEEN
    if asked is not None:
        raise UsageError(
            "--batches-seen requires --batch-from", hint="add --batch-from PACKAGE.MODULE:CALLABLE"
        )
    return 1


def require_segmentation(variants: Sequence[Variant], what: str) -> None:
    """Check that all variants segment images.

    Args:
        variants: The variants to check.
        what: The option or command that needs them, for the error.

    Raises:
        UsageError: One has another task or other inputs.
    """
    for variant in variants:
        if variant.own.batches is not None:
            raise UsageError(
                f"{what} and --batch-from {variant.own.batches} exclude each other",
                hint=f"leave {what} out, or --batch-from"
                if what.startswith("--")
                else "leave --batch-from out",
            )
        if variant.problem is not Problem.SEGMENTATION:
            raise UsageError(
                f"{what} needs a segmentation network; {variant.model} classifies images",
                hint=_segmenting(variant, what),
            )
        if what == "--data" and variant.channels != RGB:
            raise UsageError(
                f"--data has images with {RGB} channels, --input has {variant.channels}",
                hint="leave one of the two out",
            )


def _segmenting(variant: Variant, what: str) -> str:
    """The hint of `require_segmentation`; a built-in loss decides the task too."""
    if variant.own.loss in LOSSES:
        return f"leave --loss {variant.own.loss} out, or {what}"
    give = "give --model NAME of one, such as deeplabv2-resnet50 or torchvision:fcn_resnet50"
    return f"{give}; or leave {what} out" if what.startswith("--") else give


def _each_once(arguments: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Sort the arguments by name; raise UsageError for duplicates."""
    for name, times in Counter(name for name, _ in arguments).items():
        if times > 1:
            raise UsageError(f"--model-arg: {name} is given twice", hint="give it once")
    return tuple(sorted(arguments))


def _images(
    given: Mapping[str, Any], own: OwnParts
) -> tuple[int, tuple[Resolution, ...] | tuple[None] | None]:
    """Channels and sizes of the images.

    The sizes are None for the default of each network, and (None,) with --batch-from.
    """
    sizes: tuple[Resolution, ...] | None = given["resolutions"]
    channels, size = given["input_size"] or (RGB, None)
    if own.batches is not None:
        if sizes is not None or size is not None:
            option = "--resolution" if size is None else "--input"
            raise UsageError(
                f"{option} and --batch-from exclude each other",
                hint="leave one of the two out",
            )
        return RGB, (None,)
    if size is None:
        return channels, sizes
    if sizes is not None and set(sizes) != {size}:
        raise UsageError(
            f"--input {size} differs from --resolution {','.join(str(each) for each in sizes)}",
            hint="give one of the two",
        )
    return channels, (size,)


SUBJECT_FACETS: dict[str, Callable[[Sequence[Variant]], object]] = {
    "models": lambda variants: {v.model for v in variants},
    "model_args": lambda variants: variants[0].own.model_args,
    "resolutions": lambda variants: {v.resolution for v in variants},
    "input_size": lambda variants: {(v.channels, v.resolution) for v in variants},
    "loss": lambda variants: variants[0].own.loss,
    "optimizer_from": lambda variants: variants[0].own.optimizer,
    "batch_from": lambda variants: variants[0].own.batches,
    "batches_seen": lambda variants: variants[0].own.batches_seen,
    "habits": lambda variants: variants[0].own.habits,
    "checkpoint_blocks": lambda variants: variants[0].own.checkpoint_blocks,
} | {
    axis.field: lambda variants, field=axis.field: {getattr(v, field) for v in variants}
    for axis in AXES
}
"""By option, the part of the variants that it decides; `--resume` compares them."""
