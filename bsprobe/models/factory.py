"""From a variant to a network: by name, in its norm, with or without checkpointing."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import nn
from torch.utils.checkpoint import checkpoint

from bsprobe.errors import UsageError
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

TORCHVISION = "torchvision:"
_DEEPLABV2 = {
    **{f"deeplabv2-{backbone}": (blocks, WIDTH) for backbone, blocks in BLOCKS.items()},
    "deeplabv2-mini": (MINI_BLOCKS, MINI_WIDTH),
}
"""Blocks and width of each."""


def build_model(variant: Variant) -> nn.Module:
    """Build the network of a variant, in fp32 on the CPU, in training mode.

    Raises:
        UsageError: No model has this name, or it has no residual blocks to checkpoint.
    """
    check_model_name(variant.model)
    if variant.model.startswith(TORCHVISION):
        model = _torchvision_model(variant)
    else:
        blocks, width = _DEEPLABV2[variant.model]
        norm = LAYERS[variant.norm]
        model = DeepLabV2(blocks, classes=variant.classes, norm=norm, width=width)
    if variant.checkpointing is Checkpointing.ON:
        checkpoint_blocks(model)
    return model.train()


def check_model_name(name: str) -> None:
    """Make sure that a model of this name can be built, and load what building it needs.

    Raises:
        UsageError: No model has this name; the nearest one is suggested.
    """
    if name.startswith(TORCHVISION):
        from torchvision import models  # noqa: PLC0415 - takes seconds; DeepLabV2 needs none of it

        known = [TORCHVISION + each for each in models.list_models(module=models.segmentation)]
    else:
        known = [*_DEEPLABV2, f"{TORCHVISION}NAME"]
    if name not in known:
        raise unknown_value("--model", name, known)


def _torchvision_model(variant: Variant) -> nn.Module:
    from torchvision import models  # noqa: PLC0415 - as above

    name = variant.model.removeprefix(TORCHVISION)
    with _batch_norm_replaced(variant.norm):
        model = models.get_model(
            name,
            weights=None,
            weights_backbone=None,
            num_classes=variant.classes,
            **_auxiliary(name),
        )
    assert isinstance(model, nn.Module)  # noqa: S101 - torchvision is not typed
    return model


def _auxiliary(name: str) -> dict[str, bool]:
    """Train with the auxiliary loss, as torchvision's recipes do; LRASPP alone has none."""
    return {} if name.startswith("lraspp") else {"aux_loss": True}


@contextmanager
def _batch_norm_replaced(norm: Norm) -> Iterator[None]:
    """Build with another norm.

    torchvision's segmentation heads name `nn.BatchNorm2d` outright and offer no argument for it;
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
