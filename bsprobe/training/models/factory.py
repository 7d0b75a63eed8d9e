"""From a variant to a network: by name, in its norm, with or without checkpointing."""

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
"""Blocks and width of each."""
_CLASSES: Final = ("num_classes", "n_classes", "classes", "num_labels", "out_channels", "out_ch")
_CHANNELS: Final = ("in_channels", "n_channels", "in_chans", "num_channels", "in_ch")
"""Arguments by which factories ask for the number of logits, and for that of the channels."""


def build_model(variant: Variant) -> nn.Module:
    """Build the network of a variant, in fp32 on the CPU, in training mode.

    Raises:
        UsageError: No model has this name, it has no norm to exchange, no blocks to checkpoint,
            or does not take its arguments.
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
    """Make sure that all that a variant names is there, and load what building it needs.

    Raises:
        UsageError: Something is not there, or not with these arguments, channels or this norm.
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
    """Convert BatchNorm as PyTorch does, whatever the network."""
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()):
        raise UsageError(
            f"--norm {variant.norm}: {variant.model} has no BatchNorm",
            hint=f"add --norm {Norm.AS_BUILT}, which leaves it alone",
        )
    return converted


def exchange_norms(model: nn.Module, variant: Variant) -> None:
    """Exchange the BatchNorm layers of a network for the norm of its variant.

    A finished network is changed, since few offer an argument for it. That of volumes is exchanged
    for GroupNorm alone.

    Raises:
        UsageError: It has none, or other norms beside them, which would stay.
    """
    norm = variant.norm
    if norm in (Norm.BATCH, Norm.AS_BUILT):
        return
    grouped = (nn.BatchNorm2d, nn.BatchNorm3d)
    exchanged = grouped if norm in (Norm.GROUP, Norm.GROUP_AMP) else (nn.BatchNorm2d,)
    made: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        # Not `named_children`, which leaves out a module that is there twice.
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
            f"{', which is not exchanged' if kept else ''}",
            hint=f"add --norm {Norm.AS_BUILT if keeps_own_norm(variant.model) else Norm.BATCH}, "
            "which leaves it alone",
        )


def check_model_name(name: str) -> None:
    """Make sure that a model of this name can be built, and load what building it needs.

    Raises:
        UsageError: No model has this name; the nearest one is suggested.
    """
    if is_factory(name):
        load_callable("--model", name)
        return
    if name.startswith(PREFIXES):
        elsewhere.check_name(name)
    elif name not in _DEEPLABV2:
        raise unknown_value("--model", name, MODEL_FORMS)


def _with_arguments(variant: Variant) -> nn.Module:
    """Build by name; a complaint about arguments that were given is the user's to read."""
    try:
        return elsewhere.build(variant)
    except TypeError as error:
        if not variant.own.model_args:
            raise
        raise UsageError(
            f"--model-arg: {variant.network}: {error}", hint="see what the network's own page says"
        ) from error


def told_arguments(variant: Variant) -> dict[str, int]:
    """Classes and channels for a factory that asks for them; none for other networks.

    They are told only where the factory has no default for them, but for channels that are not the
    default, which it must know. Of batches of the user's own nobody knows what they hold, so that
    their number is not told either.
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
    """Arguments that a factory is told where it asks for them; none for other networks."""
    told: dict[str, Any] = {**told_arguments(variant)}
    parameters = _parameters_of_factory(variant)
    is_exchanged = variant.norm not in (Norm.BATCH, Norm.SYNC_BATCH, Norm.AS_BUILT)
    if is_exchanged and "norm_layer" in parameters:
        told["norm_layer"] = LAYERS[variant.norm]
    return told


def _first_of(taken: Collection[str], names: Sequence[str], value: int) -> dict[str, int]:
    """The value under the first of some names that a factory takes."""
    return next(({name: value} for name in names if name in taken), {})


def _own_arguments(variant: Variant) -> dict[str, Any]:
    """The arguments of your factory: those that it is told, then those that were given.

    Raises:
        UsageError: It takes no such arguments.
    """
    made = load_callable("--model", variant.model)
    arguments = _told(variant) | variant.own.arguments
    if isinstance(made, nn.Module):
        _require_no_arguments(variant)
        return {}
    signature = inspect.signature(made)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    if "num_classes" not in signature.parameters and not takes_any:
        # Then it says how many classes the labels have, for a network that has them fixed.
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
        hint = f"add {' '.join(missing)}" if missing else "its arguments are --model-arg NAME=VALUE"
        raise UsageError(f"--model {variant.network}: {error}", hint=hint) from error
    return arguments


def _require_no_arguments(variant: Variant) -> None:
    """Refuse arguments for a network that is built already."""
    if given := [name for name in variant.own.arguments if name != "num_classes"]:
        raise UsageError(
            f"--model-arg {given[0]}: {variant.model} is a network, which takes no arguments",
            hint="name a class or a function that makes the network",
        )


def _own_model(variant: Variant) -> nn.Module:
    """Call your factory, or copy your network, of which the trials change their own."""
    made = load_callable("--model", variant.model)
    arguments = _own_arguments(variant)
    model = copy.deepcopy(made) if isinstance(made, nn.Module) else made(**arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {variant.model}: it made a {type(model).__name__}, not an nn.Module",
            hint="give a function or a class that makes an nn.Module, or an nn.Module",
        )
    return model
