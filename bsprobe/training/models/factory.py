"""From a variant to a network: by name, in its norm, with or without checkpointing."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.variants import RGB, Checkpointing, Norm, Variant, unknown_value
from bsprobe.records.workload import TIMM, TORCHVISION, Problem, is_factory, problem_of
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
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_ELSEWHERE = (f"{TORCHVISION}NAME", f"{TIMM}NAME", "PACKAGE.MODULE:FACTORY")


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
        model = DeepLabV2(blocks, classes=variant.classes, norm=norm, width=width)
    else:
        build = _timm_model if variant.model.startswith(TIMM) else _torchvision_model
        model = _with_arguments(build, variant)
    if variant.norm is Norm.SYNC_BATCH:
        model = _synchronised(model, variant)
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
    if variant.model in _DEEPLABV2 and set(own.arguments) - {"num_classes"}:
        raise UsageError(
            f"--model-arg: {variant.model} takes num_classes alone",
            hint="give --model package.module:factory for a network of your own",
        )
    if variant.channels != RGB and not variant.model.startswith(TIMM):
        raise UsageError(
            f"--input: {variant.model} takes images of {RGB} channels, not {variant.channels}",
            hint="timm:NAME takes any number, and so may your own package.module:factory",
        )


def _synchronised(model: nn.Module, variant: Variant) -> nn.Module:
    """Convert BatchNorm as PyTorch does, whatever the network."""
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()):
        raise UsageError(
            f"--norm {variant.norm}: {variant.model} has no BatchNorm",
            hint="add --norm batch, which leaves it alone",
        )
    return converted


def check_model_name(name: str) -> None:
    """Make sure that a model of this name can be built, and load what building it needs.

    Raises:
        UsageError: No model has this name; the nearest one is suggested.
    """
    if is_factory(name):
        load_callable("--model", name)
        return
    if name.startswith(TORCHVISION):
        known = _torchvision_names()
    elif name.startswith(TIMM):
        timm = _timm()
        if timm.is_model(name.removeprefix(TIMM)):  # names of old versions, too
            return
        known = [TIMM + each for each in timm.list_models()]
    else:
        known = [*_DEEPLABV2, *_ELSEWHERE]
    if name not in known:
        raise unknown_value("--model", name, known)


def _torchvision_names() -> list[str]:
    """Its networks for classification and for segmentation of images."""
    from torchvision import models  # noqa: PLC0415 - takes seconds; DeepLabV2 needs none of it

    names = models.list_models(module=models) + models.list_models(module=models.segmentation)
    return [TORCHVISION + name for name in names]


def _torchvision_model(variant: Variant) -> nn.Module:
    from torchvision import models  # noqa: PLC0415 - as above

    name = variant.model.removeprefix(TORCHVISION)
    arguments: dict[str, Any]
    if problem_of(variant.model) is Problem.SEGMENTATION:
        arguments = {"weights_backbone": None, **_auxiliary(name)}
    else:
        arguments = _classifier_arguments(name, variant)
    arguments |= {"num_classes": variant.classes, **variant.own.arguments}
    with _batch_norm_replaced(variant.norm):
        model = models.get_model(name, weights=None, **arguments)
    assert isinstance(model, nn.Module)  # noqa: S101 - torchvision is not typed
    is_batch_norm = variant.norm in (Norm.BATCH, Norm.SYNC_BATCH)
    if not is_batch_norm and not _is_built_in(model, variant.norm):
        raise UsageError(
            f"--norm {variant.norm}: {variant.model} has other norms than BatchNorm2d, or none",
            hint="add --norm batch, which leaves it alone",
        )
    return model


def _auxiliary(name: str) -> dict[str, Any]:
    """Train with the auxiliary loss, as torchvision's recipes do; LRASPP alone has none."""
    return {} if name.startswith("lraspp") else {"aux_loss": True}


def _classifier_arguments(name: str, variant: Variant) -> dict[str, Any]:
    """What some classification networks must be told: the image size, and to have one output."""
    if name in _WITH_AUXILIARY:
        return {"aux_logits": False, "init_weights": True}
    if variant.resolution is None:
        return {}
    height, width = variant.resolution.height, variant.resolution.width
    if name.startswith("vit_"):
        if height != width:
            raise UsageError(
                f"--resolution {height}x{width}: {variant.model} takes square images alone",
                hint=f"for example --resolution {height}x{height}",
            )
        return {"image_size": height}
    if name == "maxvit_t":
        return {"input_size": (height, width)}
    return {}


def _is_built_in(model: nn.Module, norm: Norm) -> bool:
    """Whether a network's norms are of one kind."""
    kinds = {type(module) for module in model.modules()}
    return LAYERS[norm] in kinds and kinds.isdisjoint((nn.BatchNorm2d, nn.LayerNorm))


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UsageError(
            "--model timm:NAME needs the package timm, which is not installed",
            hint="pip install timm",
        ) from error


def _timm_model(variant: Variant) -> nn.Module:
    """Build for the resolution, which networks with fixed positions must know."""
    arguments: dict[str, Any] = {"num_classes": variant.classes}
    if variant.channels != RGB:
        arguments["in_chans"] = variant.channels
    if variant.resolution is not None:
        size = (variant.channels, variant.resolution.height, variant.resolution.width)
        arguments["pretrained_cfg_overlay"] = {"input_size": size}
    arguments |= variant.own.arguments
    model = _timm().create_model(variant.model.removeprefix(TIMM), pretrained=False, **arguments)
    assert isinstance(model, nn.Module)  # noqa: S101 - imported by name, so not typed
    return model


def _with_arguments(build: Callable[[Variant], nn.Module], variant: Variant) -> nn.Module:
    """Build by name; a complaint about arguments that were given is the user's to read."""
    try:
        return build(variant)
    except TypeError as error:
        if not variant.own.model_args:
            raise
        raise UsageError(
            f"--model-arg: {variant.network}: {error}", hint="see what the network's own page says"
        ) from error


def _own_arguments(variant: Variant) -> dict[str, Any]:
    """What your factory is called with: what it is told where it takes it, then what was given.

    Of batches of your own nobody knows what they hold, so that it is not told either.

    Raises:
        UsageError: It takes no such arguments, or has no norm to exchange.
    """
    signature = inspect.signature(load_callable("--model", variant.model))
    offered: dict[str, Any] = {}
    if variant.own.batches is None:
        offered = {"num_classes": variant.classes, "in_channels": variant.channels}
    if variant.norm not in (Norm.BATCH, Norm.SYNC_BATCH):
        offered["norm_layer"] = LAYERS[variant.norm]
        if "norm_layer" not in signature.parameters:
            raise UsageError(
                f"--norm {variant.norm}: {variant.model} keeps the norm it is built with: it takes "
                "no norm_layer",
                hint="add --norm batch, which leaves it alone, or give it an argument norm_layer",
            )
    told = {name: value for name, value in offered.items() if name in signature.parameters}
    arguments = told | variant.own.arguments
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    if "num_classes" not in signature.parameters and not takes_any:
        # Then it says how many classes the labels have, for a network that has them fixed.
        arguments.pop("num_classes", None)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"--model {variant.network}: {error}", hint="its arguments are --model-arg NAME=VALUE"
        ) from error
    return arguments


def _own_model(variant: Variant) -> nn.Module:
    """Call your factory."""
    model = load_callable("--model", variant.model)(**_own_arguments(variant))
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {variant.model}: it made a {type(model).__name__}, not an nn.Module",
            hint="give a function or a class that makes an nn.Module",
        )
    return model


@contextmanager
def _batch_norm_replaced(norm: Norm) -> Iterator[None]:
    """Build with another norm.

    torchvision's networks name `nn.BatchNorm2d` outright, and few offer an argument for it;
    lending the name to another class while the net is built reaches every layer, and nothing has
    to be exchanged in a finished net.
    """
    with mock.patch.object(nn, "BatchNorm2d", LAYERS[norm]):
        yield
