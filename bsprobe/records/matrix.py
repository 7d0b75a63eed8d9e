"""The variants of a run: the product of the requested models, resolutions and axis values."""

import itertools
from collections.abc import Mapping, Sequence
from enum import StrEnum

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import (
    AXES,
    DEFAULT_RESOLUTION,
    RGB,
    Checkpointing,
    Norm,
    Variant,
)
from bsprobe.records.workload import (
    BUILT_IN,
    CLASSES,
    HUGGING_FACE,
    LOSSES,
    NOTHING_OWN,
    TORCHVISION,
    OwnParts,
    Problem,
    is_told_by_logits,
    keeps_own_norm,
    problem_of,
)


def matrix(
    *,
    models: Sequence[str],
    resolutions: Sequence[Resolution | None] | None,
    choices: Mapping[str, Sequence[StrEnum]],
    processes: int = 1,
    channels: int = RGB,
    own: OwnParts = NOTHING_OWN,
) -> tuple[Variant, ...]:
    """Build the variants of a run, in the order of the axes, without duplicates.

    Args:
        models: Names of models.
        resolutions: Image sizes, with None for user-supplied batches; None for the default of each
            network.
        choices: Values by field name, for axes that do not keep their defaults. Without norms,
            each network gets its default norms.
        processes: The number of processes that train together.
        channels: The channels of the images.
        own: User-supplied parts of the workload.

    Returns:
        The variants.

    Raises:
        UsageError: `as-built` is requested of a model without a norm of its own, `sync-batch` with
            one process, or an axis or loss that does not apply to the model or the user-supplied
            parts; or `num_classes` is invalid.
    """
    norms_of = {model: _norms(model, choices.get("norm")) for model in models}
    for model, norms in norms_of.items():
        _require_others(norms, processes)
        _require_norm_for(model, norms)
        _require_loss_for(model, own.loss)
    _require_meaning(choices, own)
    variants = [
        Variant(
            model=model,
            resolution=resolution,
            classes=_classes(model, own),
            channels=channels,
            own=own,
            **{axis.field: value for axis, value in zip(AXES, values, strict=True)},  # type: ignore[arg-type] # each axis names the field of its own kind
        )
        for model in models
        for chosen in [{**choices, "norm": norms_of[model]}]
        for resolution in resolutions or (default_resolution(model),)
        for values in itertools.product(*(chosen.get(axis.field, axis.defaults) for axis in AXES))
    ]
    return tuple(dict.fromkeys(variants))


def default_norms(model: str) -> tuple[Norm, ...]:
    """Return the norms to try if none are given; external networks stay as built."""
    return (Norm.AS_BUILT,) if keeps_own_norm(model) else (Norm.BATCH, Norm.GROUP)


def default_resolution(model: str) -> Resolution | None:
    """Return the image size if none is given; None if the network has its own size."""
    has_its_own = problem_of(model) is Problem.CLASSIFICATION or model.startswith(HUGGING_FACE)
    return None if has_its_own else DEFAULT_RESOLUTION


def _norms(model: str, asked: Sequence[StrEnum] | None) -> tuple[StrEnum, ...]:
    """Return the norms of a model; `batch` means as built if the model keeps its own norm."""
    norms = tuple(asked or default_norms(model))
    if not keeps_own_norm(model):
        return norms
    return tuple(dict.fromkeys(Norm.AS_BUILT if each is Norm.BATCH else each for each in norms))


def require_taken(variant: Variant) -> None:
    """Check that a built-in or torchvision network accepts its arguments and channels.

    Raises:
        UsageError: The network does not take the arguments or the number of channels.
    """
    model = variant.model
    if model in BUILT_IN and set(variant.own.arguments) - {"num_classes"}:
        raise UsageError(
            f"--model-arg: {model} takes only num_classes",
            hint="give --model package.module:factory for a network of your own",
        )
    if variant.channels != RGB and (model in BUILT_IN or model.startswith(TORCHVISION)):
        raise UsageError(
            f"--input: {model} takes images of {RGB} channels, not {variant.channels}",
            hint="timm:NAME takes any number of channels; your own package.module:factory may too",
        )


def _require_others(norms: Sequence[StrEnum], processes: int) -> None:
    """Refuse `sync-batch` with one process."""
    if Norm.SYNC_BATCH in norms and processes == 1:
        raise UsageError(
            "--norm sync-batch needs more than one process",
            hint="use torchrun --nproc-per-node N -m bsprobe run, or bsprobe run --gpu NAME "
            "--processes N, or give --norm batch",
        )


def _require_norm_for(model: str, norms: Sequence[StrEnum]) -> None:
    """Refuse `as-built` for a model without a norm of its own."""
    if Norm.AS_BUILT in norms and not keeps_own_norm(model):
        raise UsageError(
            f"--norm {Norm.AS_BUILT}: {model} has no norm of its own",
            hint=f"give --norm {Norm.BATCH}",
        )


def _require_loss_for(model: str, loss: str | None) -> None:
    """Refuse a built-in loss for another problem than the model's."""
    wanted = LOSSES.get(loss or "")
    if wanted is not None and not is_told_by_logits(model) and wanted is not problem_of(model):
        raise UsageError(
            f"--loss {loss} is for {wanted}, but {model} is a {problem_of(model)} network",
            hint=f"leave out --loss, or give a {wanted} network with --model NAME",
        )


def _require_meaning(choices: Mapping[str, Sequence[StrEnum]], own: OwnParts) -> None:
    """Refuse axis values that only affect built-in parts if these are user-supplied."""
    for axis, option, part in (
        ("optimizer", "--optimizer-from", own.optimizer),
        ("loss_at", "--loss", own.own_loss),
    ):
        (field,) = (each for each in AXES if each.field == axis)
        if part is not None and tuple(choices.get(axis, field.defaults)) != field.defaults:
            raise UsageError(
                f"{field.option} does nothing with {option} {part}",
                hint="leave one of the two out",
            )
    if own.checkpoint_blocks and Checkpointing.ON not in choices.get("checkpointing", ()):
        raise UsageError(
            f"--checkpoint-blocks {own.checkpoint_blocks} does nothing without checkpointing",
            hint="add --checkpointing on",
        )


def _classes(model: str, own: OwnParts) -> int | None:
    """Return the number of classes: from `num_classes`, else the default of the problem.

    None if they are counted from the logits later; this is not done with user-supplied batches.
    """
    typed = dict(own.model_args).get("num_classes")
    is_told = is_told_by_logits(model) and own.batches is None
    if typed is None:
        return None if is_told else CLASSES[LOSSES.get(own.loss or "") or problem_of(model)]
    given = own.arguments["num_classes"]
    if type(given) is not int or given not in ASKED["classes"]:  # True is an int as well
        raise UsageError(
            f"--model-arg num_classes={typed}: not a number of classes",
            hint=f"give {ASKED['classes']}, for example --model-arg num_classes=19",
        )
    return None if is_told else given
