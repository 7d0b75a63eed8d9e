"""From a variant to a network: by name, in its norm, with or without checkpointing."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from torch import nn
from torch.utils.checkpoint import checkpoint

from bsprobe.errors import UsageError
from bsprobe.model_names import TIMM, TORCHVISION, Problem, is_factory, problem_of
from bsprobe.models.deeplabv2 import (
    BLOCKS,
    MINI_BLOCKS,
    MINI_WIDTH,
    WIDTH,
    Bottleneck,
    DeepLabV2,
)
from bsprobe.models.norms import LAYERS
from bsprobe.variants import Checkpointing, Norm, Variant, unknown_value

_DEEPLABV2 = {
    **{f"deeplabv2-{backbone}": (blocks, WIDTH) for backbone, blocks in BLOCKS.items()},
    "deeplabv2-mini": (MINI_BLOCKS, MINI_WIDTH),
}
"""Blocks and width of each."""
_ELSEWHERE = (f"{TORCHVISION}NAME", f"{TIMM}NAME", "PACKAGE.MODULE:FACTORY")


def build_model(variant: Variant) -> nn.Module:
    """Build the network of a variant, in fp32 on the CPU, in training mode.

    Raises:
        UsageError: No model has this name, it has no norm to exchange, or no residual blocks to
            checkpoint.
    """
    check_model_name(variant.model)
    if variant.model.startswith(TORCHVISION):
        model = _torchvision_model(variant)
    elif variant.model.startswith(TIMM):
        model = _timm_model(variant)
    elif is_factory(variant.model):
        model = _own_model(variant)
    else:
        blocks, width = _DEEPLABV2[variant.model]
        norm = LAYERS[variant.norm]
        model = DeepLabV2(blocks, classes=variant.classes, norm=norm, width=width)
    if variant.norm is Norm.SYNC_BATCH:
        model = _synchronised(model, variant)
    if variant.checkpointing is Checkpointing.ON:
        checkpoint_blocks(model)
    return model.train()


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
        _factory(name)
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
    if problem_of(variant.model) is Problem.SEGMENTATION:
        arguments = {"weights_backbone": None, **_auxiliary(name)}
    else:
        arguments = _classifier_arguments(name, variant)
    with _batch_norm_replaced(variant.norm):
        model = models.get_model(name, weights=None, num_classes=variant.classes, **arguments)
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
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
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
    size = (3, variant.resolution.height, variant.resolution.width)
    model = _timm().create_model(
        variant.model.removeprefix(TIMM),
        pretrained=False,
        num_classes=variant.classes,
        pretrained_cfg_overlay={"input_size": size},
    )
    assert isinstance(model, nn.Module)  # noqa: S101 - imported by name, so not typed
    return model


def _factory(name: str) -> Callable[..., Any]:
    """Your callable, by `package.module:factory`."""
    where, _, what = name.partition(":")
    try:
        found = getattr(importlib.import_module(where), what)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--model {name}: {error}",
            hint="give package.module:factory, importable from the folder you are in",
        ) from error
    if not callable(found):
        raise UsageError(
            f"--model {name}: it is a {type(found).__name__} and cannot be called",
            hint="give a function or a class that makes an nn.Module",
        )
    factory: Callable[..., Any] = found
    return factory


def _own_model(variant: Variant) -> nn.Module:
    """Call the factory; where it takes `num_classes`, it is told."""
    factory = _factory(variant.model)
    takes_classes = "num_classes" in inspect.signature(factory).parameters
    model = factory(**({"num_classes": variant.classes} if takes_classes else {}))
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


def checkpoint_blocks(model: nn.Module) -> None:
    """Make every residual block recompute its inside in the backward pass.

    Raises:
        UsageError: The model has no residual block that is known here.
    """
    kinds = residual_block_types(model)
    blocks = [module for module in model.modules() if isinstance(module, kinds)]
    if not blocks:
        raise UsageError(
            "--checkpointing on: this model has no residual blocks to checkpoint",
            hint="leave it off, or choose a model with a ResNet or MobileNet backbone",
        )
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def residual_block_types(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """The classes of residual blocks that a model may consist of."""
    if isinstance(model, DeepLabV2):
        return (Bottleneck,)
    from torchvision.models import mobilenetv2, mobilenetv3, resnet  # noqa: PLC0415 - as above

    return (
        resnet.Bottleneck,
        resnet.BasicBlock,
        mobilenetv2.InvertedResidual,
        mobilenetv3.InvertedResidual,
    )
