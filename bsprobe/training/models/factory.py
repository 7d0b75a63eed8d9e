"""Building the network of a variant: by name, in its norm, with or without checkpointing."""

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.matrix import require_taken
from bsprobe.records.variants import RGB, Checkpointing, Norm, Variant, unknown_value
from bsprobe.records.workload import (
    CLASSES,
    MODEL_FORMS,
    PREFIXES,
    is_factory,
    keeps_own_norm,
)
from bsprobe.training.models import elsewhere
from bsprobe.training.models.callables import load_callable
from bsprobe.training.models.checkpointing import apply_checkpointing
from bsprobe.training.models.deeplabv2 import (
    BLOCKS,
    MINI_BLOCKS,
    MINI_WIDTH,
    WIDTH,
    DeepLabV2,
)
from bsprobe.training.models.norms import LAYERS

_DEEPLABV2 = {
    **{f"deeplabv2-{backbone}": (blocks, WIDTH) for backbone, blocks in BLOCKS.items()},
    "deeplabv2-mini": (MINI_BLOCKS, MINI_WIDTH),
}
"""Blocks of each stage, and the width."""
_CLASSES: Final = ("num_classes", "n_classes", "classes", "num_labels", "out_channels", "out_ch")
_CHANNELS: Final = ("in_channels", "n_channels", "in_chans", "num_channels", "in_ch")
"""Names of factory arguments for the number of logits, and for the number of channels."""


def build_model(variant: Variant) -> nn.Module:
    """Build the network of a variant, in fp32 on the CPU, in training mode.

    Raises:
        UsageError: No model has this name, or it has no norm to exchange, has no blocks to
            checkpoint, or does not take its arguments.
    """
    check_variant(variant)
    if is_factory(variant.model):
        model = _own_model(variant)
    elif variant.model in _DEEPLABV2:
        blocks, width = _DEEPLABV2[variant.model]
        norm = LAYERS[variant.norm]
        model = DeepLabV2(blocks, classes=variant.logits, norm=norm, width=width)
    else:
        model = _with_arguments(variant)
    if variant.norm is Norm.SYNC_BATCH:
        model = _synchronised(model, variant)
    elif variant.model not in _DEEPLABV2 and "norm_layer" not in _told(variant):
        exchange_norms(model, variant)
    if variant.checkpointing is Checkpointing.ON:
        apply_checkpointing(model, variant.own.checkpoint_blocks)
    return model.train()


def check_variant(variant: Variant) -> None:
    """Require that everything a variant names exists, and import it.

    Raises:
        UsageError: A name does not exist, or the model does not take the variant's arguments,
            channels or norm.
    """
    check_model_name(variant.model)
    own = variant.own
    named = (
        ("--loss", own.own_loss),
        ("--optimizer-from", own.optimizer),
        ("--batch-from", own.batches),
    )
    for option, name in named:
        if name is not None:
            load_callable(option, name)
    if is_factory(variant.model):
        _own_arguments(variant)
        return
    require_taken(variant)


def _synchronised(model: nn.Module, variant: Variant) -> nn.Module:
    """Convert the BatchNorm layers of any network with PyTorch's function."""
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()):
        raise UsageError(
            f"--norm {variant.norm}: {variant.model} has no BatchNorm",
            hint=f"give --norm {Norm.AS_BUILT}, which changes no layer",
        )
    return converted


def exchange_norms(model: nn.Module, variant: Variant) -> None:
    """Replace the BatchNorm layers of a network by the norm of its variant.

    The built network is changed, because few take the norm as an argument. BatchNorm3d can only be
    replaced by GroupNorm.

    Raises:
        UsageError: The network has no BatchNorm, or has norms that are not replaced.
    """
    norm = variant.norm
    if norm in (Norm.BATCH, Norm.AS_BUILT):
        return
    grouped = (nn.BatchNorm2d, nn.BatchNorm3d)
    exchanged = grouped if norm in (Norm.GROUP, Norm.GROUP_AMP) else (nn.BatchNorm2d,)
    made: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        # Not `named_children`, which lists a module once even if it has two names.
        for name, child in list(parent._modules.items()):  # noqa: SLF001 - as above
            if type(child) in exchanged:
                assert isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d)  # noqa: S101 - seen above
                if id(child) not in made:
                    layer = LAYERS[norm](child.num_features, eps=child.eps, momentum=child.momentum)
                    made[id(child)] = layer
                setattr(parent, name, made[id(child)])
    others = (*grouped, nn.BatchNorm1d, nn.LayerNorm)
    kept = {type(module).__name__ for module in model.modules() if isinstance(module, others)}
    if kept or not made:
        raise UsageError(
            f"--norm {norm}: {variant.model} has {' and '.join(sorted(kept)) or 'no BatchNorm'}"
            f"{', which is not replaced' if kept else ''}",
            hint=f"give --norm {Norm.AS_BUILT if keeps_own_norm(variant.model) else Norm.BATCH}, "
            "which changes no layer",
        )


def check_model_name(name: str) -> None:
    """Require that a model has this name, and import it.

    Raises:
        UsageError: No model has this name; the hint names the nearest one.
    """
    if is_factory(name):
        load_callable("--model", name)
        return
    if name.startswith(PREFIXES):
        elsewhere.check_name(name)
    elif name not in _DEEPLABV2:
        raise unknown_value("--model", name, MODEL_FORMS)


def _with_arguments(variant: Variant) -> nn.Module:
    """Build by name; a TypeError becomes a UsageError if the user gave arguments."""
    try:
        return elsewhere.build(variant)
    except TypeError as error:
        if not variant.own.model_args:
            raise
        raise UsageError(
            f"--model-arg: {variant.network}: {error}", hint="see the documentation of the network"
        ) from error


def told_arguments(variant: Variant) -> dict[str, int]:
    """The arguments for classes and channels that a factory takes; empty for other networks.

    They are passed only if the factory has no default for them; channels other than 3 are passed
    always. With user-supplied batches neither number is known, and none is passed.
    """
    parameters = _parameters_of_factory(variant)
    if variant.own.batches is not None:
        return {}
    required = {name for name, each in parameters.items() if each.default is each.empty}
    required -= set(variant.own.arguments)
    known = parameters if variant.channels != RGB else required
    classes = variant.classes or CLASSES[variant.problem]
    return _first_of(required, _CLASSES, classes) | _first_of(known, _CHANNELS, variant.channels)


def _parameters_of_factory(variant: Variant) -> Mapping[str, inspect.Parameter]:
    if not is_factory(variant.model):
        return {}
    made = load_callable("--model", variant.model)
    return {} if isinstance(made, nn.Module) else inspect.signature(made).parameters


def _told(variant: Variant) -> dict[str, Any]:
    """The arguments of `told_arguments`, and `norm_layer` if the factory takes it."""
    told: dict[str, Any] = {**told_arguments(variant)}
    parameters = _parameters_of_factory(variant)
    is_exchanged = variant.norm not in (Norm.BATCH, Norm.SYNC_BATCH, Norm.AS_BUILT)
    if is_exchanged and "norm_layer" in parameters:
        told["norm_layer"] = LAYERS[variant.norm]
    return told


def _first_of(taken: Collection[str], names: Sequence[str], value: int) -> dict[str, int]:
    """The value under the first of the names that a factory takes; empty if it takes none."""
    return next(({name: value} for name in names if name in taken), {})


def _own_arguments(variant: Variant) -> dict[str, Any]:
    """The arguments of a user's factory: those of the variant, overridden by `--model-arg`.

    Raises:
        UsageError: The factory does not take them.
    """
    made = load_callable("--model", variant.model)
    arguments = _told(variant) | variant.own.arguments
    if isinstance(made, nn.Module):
        _require_no_arguments(variant)
        return {}
    signature = inspect.signature(made)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    if "num_classes" not in signature.parameters and not takes_any:
        # Then --model-arg num_classes gives only the classes of the labels.
        arguments.pop("num_classes", None)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        missing = [
            f"--model-arg {name}=VALUE"
            for name, each in signature.parameters.items()
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            and name not in arguments
        ]
        hint = (
            f"add {' '.join(missing)}" if missing else "give its arguments: --model-arg NAME=VALUE"
        )
        raise UsageError(f"--model {variant.network}: {error}", hint=hint) from error
    return arguments


def _require_no_arguments(variant: Variant) -> None:
    """Refuse arguments for a network that is already built."""
    if given := [name for name in variant.own.arguments if name != "num_classes"]:
        raise UsageError(
            f"--model-arg {given[0]}: {variant.model} is a built network, which takes no arguments",
            hint="give a class or a function that returns the network",
        )


def _own_model(variant: Variant) -> nn.Module:
    """Call a user's factory, or copy a user's network: trials change it in place."""
    made = load_callable("--model", variant.model)
    arguments = _own_arguments(variant)
    model = copy.deepcopy(made) if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {variant.model}: it returned a {type(model).__name__}, not an nn.Module",
            hint="give an nn.Module, or a function or a class that returns one",
        )
    return model
