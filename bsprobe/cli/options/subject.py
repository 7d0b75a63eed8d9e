"""The options that say what is trained: from the command line to the matrix of variants."""

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
from bsprobe.records.workload import LOSSES, OwnParts, Problem

SUBJECT_OPTIONS = (
    click.option(
        "--model",
        "models",
        type=model_names,
        metavar="LIST",
        default="deeplabv2-resnet101",
        show_default=True,
        help="deeplabv2-resnet101, deeplabv2-resnet50, deeplabv2-mini (a small one, for trying "
        "things out), torchvision:NAME or timm:NAME for their segmentation and classification "
        "models, smp:ARCHITECTURE for segmentation_models_pytorch, hf:CONFIG.json for a "
        "configuration of transformers, or PACKAGE.MODULE:NAME (FILE.py:NAME) for your own: an "
        "nn.Module class, a function that makes a network, or a network.",
    ),
    click.option(
        "--model-arg",
        "model_args",
        type=argument,
        metavar="NAME=VALUE",
        multiple=True,
        help="An argument of what builds the network, its value a literal of Python or JSON, else "
        "text; may be repeated.",
    ),
    click.option(
        "--resolution",
        "resolutions",
        type=resolutions,
        metavar="LIST",
        help="Image sizes as HEIGHTxWIDTH, or cityscapes (1024x2048), cityscapes-half (512x1024).  "
        f"[default: {DEFAULT_RESOLUTION}; for classifiers the size that they are built for]",
    ),
    click.option(
        "--input",
        "input_size",
        type=input_size,
        metavar="CxHxW",
        help="Channels and size of the images in one, for example 4x512x1024, or of volumes, "
        "1x96x96x96 (channels, slices, height, width); in place of --resolution.  "
        "[default: 3 channels]",
    ),
    click.option(
        "--loss",
        type=loss_name,
        metavar="NAME",
        help="pixel-cross-entropy, image-cross-entropy, or PACKAGE.MODULE:CALLABLE that makes a "
        "scalar of outputs and targets.  [default: the cross-entropy that the model is made for]",
    ),
    click.option(
        "--optimizer-from",
        type=callable_name("--optimizer-from"),
        metavar="NAME",
        help="PACKAGE.MODULE:CALLABLE that makes the optimizer of the network it is given, in "
        "place of --optimizer.",
    ),
    click.option(
        "--batch-from",
        type=callable_name("--batch-from"),
        metavar="NAME",
        help="PACKAGE.MODULE:CALLABLE that makes inputs and targets for a batch size, in place of "
        "images of --resolution.",
    ),
    click.option(
        "--loop",
        "habits",
        type=parsed_habits,
        metavar="LIST",
        help="Habits of your training loop, as NAME=VALUE: zero-grad=start|before-backward|end, "
        "gradients=none|zero, batch=kept|moved|overlapping, outputs=dropped|step|kept.  "
        "[default: zero-grad=end,gradients=none,batch=kept,outputs=kept]",
    ),
    click.option(
        "--checkpoint-blocks",
        type=checkpoint_patterns,
        metavar="PATTERN",
        help="With --checkpointing on: the modules to recompute, as a comma-separated list of "
        "patterns of their dotted names, such as 'encoder.layer*,decoder.*'.  [default: the "
        "network's own way, else the blocks that are repeated in it]",
    ),
)
"""The network and its training."""


def subject_options(command: Command) -> Command:
    """Give a command the options that `variants_from` reads."""
    for option in reversed((*SUBJECT_OPTIONS, *axis_options())):
        command = option(command)
    return command


def variants_from(given: Mapping[str, Any], processes: int = 1) -> tuple[Variant, ...]:
    """The matrix that the options span, to be trained by so many processes together."""
    own = OwnParts(
        model_args=_each_once(given["model_args"]),
        loss=given["loss"],
        optimizer=given["optimizer_from"],
        batches=given["batch_from"],
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


def require_segmentation(variants: Sequence[Variant], what: str) -> None:
    """Refuse what works on images with labels of pixels where there are none."""
    for variant in variants:
        if variant.own.batches is not None:
            raise UsageError(
                f"{what} needs images and labels; --batch-from {variant.own.batches} makes its own",
                hint="leave one of the two out",
            )
        if variant.problem is not Problem.SEGMENTATION:
            raise UsageError(
                f"{what} needs a segmentation network; {variant.model} classifies images",
                hint=_segmenting(variant, what),
            )
        if what == "--data" and variant.channels != RGB:
            raise UsageError(
                f"--data has images of {RGB} channels, --input says {variant.channels}",
                hint="leave one of the two out",
            )


def _segmenting(variant: Variant, what: str) -> str:
    """The hint to give a segmentation network; what makes it none may be its loss."""
    if variant.own.loss in LOSSES:
        return f"leave --loss {variant.own.loss} out, or {what}"
    give = "give --model NAME of one, such as deeplabv2-resnet50 or torchvision:fcn_resnet50"
    return f"{give}; or leave {what} out" if what.startswith("--") else give


def _each_once(arguments: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Arguments in the order of their names: the order they were typed in says nothing."""
    for name, count in Counter(name for name, _ in arguments).items():
        if count > 1:
            raise UsageError(f"--model-arg: {name} is given twice", hint="give it once")
    return tuple(sorted(arguments))


def _images(
    given: Mapping[str, Any], own: OwnParts
) -> tuple[int, tuple[Resolution, ...] | tuple[None] | None]:
    """Channels and sizes of the images; no size where batches are your own.

    None for the sizes where each network has its default.
    """
    sizes: tuple[Resolution, ...] | None = given["resolutions"]
    channels, size = given["input_size"] or (RGB, None)
    if own.batches is not None:
        if sizes is not None or size is not None:
            option = "--resolution" if size is None else "--input"
            raise UsageError(
                f"{option} says what images are made, and --batch-from makes them",
                hint="leave one of the two out",
            )
        return RGB, (None,)
    if size is None:
        return channels, sizes
    if sizes is not None and set(sizes) != {size}:
        raise UsageError(
            f"--input says {size}, --resolution {','.join(str(each) for each in sizes)}",
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
    "habits": lambda variants: variants[0].own.habits,
    "checkpoint_blocks": lambda variants: variants[0].own.checkpoint_blocks,
} | {
    axis.field: lambda variants, field=axis.field: {getattr(v, field) for v in variants}
    for axis in AXES
}
"""The choice behind each option, to tell whether a resumed run was asked for the same."""
