"""The variants of a run: the product of all that options ask for, by network and axis."""

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
    """The product of all lists, in the order of the axes, without repetitions.

    Args:
        models: Names of models.
        resolutions: Image sizes, None among them for batches of your own; None: each network's
            default.
        choices: For axes that do not keep their default: field name to values; no norms, or none
            at all, for each network's own default.
        processes: How many train together.
        channels: Of the images.
        own: What is not ours.

    Raises:
        UsageError: A model that keeps its own norm is to be built in another, one process is to
            synchronise its statistics, or a part of the user's own leaves an axis or a model
            without meaning.
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
    """The norms to try where nobody says; other people's networks are left as they are built."""
    return (Norm.AS_BUILT,) if keeps_own_norm(model) else (Norm.BATCH, Norm.GROUP)


def default_resolution(model: str) -> Resolution | None:
    """The size of the images where nobody says; None where the network is built for one."""
    has_its_own = problem_of(model) is Problem.CLASSIFICATION or model.startswith(HUGGING_FACE)
    return None if has_its_own else DEFAULT_RESOLUTION


def _norms(model: str, asked: Sequence[StrEnum] | None) -> tuple[StrEnum, ...]:
    """The norms of a model; `batch` leaves one that has its own as it is built."""
    norms = tuple(asked or default_norms(model))
    if not keeps_own_norm(model):
        return norms
    return tuple(dict.fromkeys(Norm.AS_BUILT if each is Norm.BATCH else each for each in norms))


def require_taken(variant: Variant) -> None:
    """Refuse arguments and channels that a network does not take; a factory says so itself.

    Raises:
        UsageError: The networks of this package and of torchvision have them fixed.
    """
    model = variant.model
    if model in BUILT_IN and set(variant.own.arguments) - {"num_classes"}:
        raise UsageError(
            f"--model-arg: {model} takes num_classes alone",
            hint="give --model package.module:factory for a network of your own",
        )
    if variant.channels != RGB and (model in BUILT_IN or model.startswith(TORCHVISION)):
        raise UsageError(
            f"--input: {model} takes images of {RGB} channels, not {variant.channels}",
            hint="timm:NAME takes any number, and so may your own package.module:factory",
        )


def _require_others(norms: Sequence[StrEnum], processes: int) -> None:
    """Refuse statistics that one process cannot share."""
    if Norm.SYNC_BATCH in norms and processes == 1:
        raise UsageError(
            "--norm sync-batch: one process has nobody to share statistics with",
            hint="torchrun --nproc-per-node N -m bsprobe run, or bsprobe run --gpu NAME "
            "--processes N; else --norm batch",
        )


def _require_norm_for(model: str, norms: Sequence[StrEnum]) -> None:
    """Refuse to leave a norm alone that is always chosen."""
    if Norm.AS_BUILT in norms and not keeps_own_norm(model):
        raise UsageError(
            f"--norm {Norm.AS_BUILT}: {model} is built with the norm that is asked for",
            hint=f"its own is --norm {Norm.BATCH}",
        )


def _require_loss_for(model: str, loss: str | None) -> None:
    """Refuse a built-in loss whose labels are of another kind than a model's own."""
    wanted = LOSSES.get(loss or "")
    if wanted is not None and not is_told_by_logits(model) and wanted is not problem_of(model):
        raise UsageError(
            f"--loss {loss}: {model} is a network for {problem_of(model)}",
            hint=f"leave --loss out, or give --model NAME of a network for {wanted}",
        )


def _require_meaning(choices: Mapping[str, Sequence[StrEnum]], own: OwnParts) -> None:
    """Refuse values of axes that decide about parts of ours where the user's own stand."""
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
    """The classes that a network is built for: what its arguments say, else what its kind has.

    None where its logits will tell. Of batches of the user's own nobody counts them.
    """
    typed = dict(own.model_args).get("num_classes")
    is_told = is_told_by_logits(model) and own.batches is None
    if typed is None:
        return None if is_told else CLASSES[LOSSES.get(own.loss or "") or problem_of(model)]
    given = own.arguments["num_classes"]
    if type(given) is not int or given not in ASKED["classes"]:  # True is an int as well
        raise UsageError(
            f"--model-arg num_classes={typed}: it is no number of classes",
            hint=f"give {ASKED['classes']}, for example --model-arg num_classes=19",
        )
    return None if is_told else given
