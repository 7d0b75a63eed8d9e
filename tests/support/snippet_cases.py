"""The situations that snippets are written for: networks, batches, and the loss of one large batch.

Micro-batches differ in their valid targets, and the last one of an epoch is smaller.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.units import Resolution
from bsprobe.records.variants import (
    Checkpointing,
    CudnnBenchmark,
    LossAt,
    MemoryFormat,
    OptimizerName,
    Precision,
)
from bsprobe.records.workload import LOSSES, OwnParts, Problem
from tests.support.snippet_networks import (
    Auxiliary,
    Both,
    Classifier,
    Detector,
    Found,
    Outcome,
    Returning,
    Scaled,
    WithLoss,
    Wrapped,
    at_logits,
    of_boxes,
    of_pixels,
    single_logit,
)
from tests.support.snippet_training import Net

HERE = "tests.support.snippet_networks"
COUNT = 8
PARTS = (3, 3, 2)
"""Images in each of the user-supplied batches; there is one epoch of them in an update."""
IMAGES = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 2, (COUNT, 8, 8), generator=torch.Generator().manual_seed(2))
for index in range(COUNT):
    LABELS[index, : 7 - index] = 255
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
VALUES = torch.rand(COUNT, 2, 4, 4, generator=torch.Generator().manual_seed(3))
VOLUMES = torch.randn(COUNT, 3, 4, 4, 4, generator=torch.Generator().manual_seed(4))
VOLUME_LABELS = torch.randint(0, 2, (COUNT, 4, 4, 4), generator=torch.Generator().manual_seed(5))
VOLUME_LABELS[2:, 1:] = 255


def boxes(count: int) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.full((1, 4), float(index))} for index in range(count)]


@dataclass(frozen=True)
class Sample:
    """A batch that is an object."""

    image: Tensor
    mask: Tensor
    name: str = "frankfurt"


class Triple(NamedTuple):
    """A batch that is a named tuple."""

    image: Tensor
    mask: Tensor
    name: str = "frankfurt"


class Moving:
    """A batch with a `to` method."""

    def __init__(self, image: Tensor, mask: Tensor) -> None:
        self.image, self.mask = image, mask

    def to(self, device: torch.device) -> "Moving":
        return Moving(self.image.to(device), self.mask.to(device))


Batches = Callable[[slice], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation; without `batches` the data set has one image and one label an item."""

    model: Callable[[], nn.Module] = Net
    whole: Callable[[nn.Module], Tensor] = lambda model: of_pixels(model(IMAGES), LABELS)
    """The loss of one large batch."""
    variant: dict[str, Any] = field(default_factory=dict)
    images: Tensor = IMAGES
    labels: Tensor = LABELS
    batches: Batches | None = None
    processes: int = 1
    tolerance: float = 1e-4


def own(
    batches: Batches,
    loss: str | None = None,
    variant: dict[str, Any] | None = None,
    *,
    optimizer: str | None = "m:sgd",
    checkpointing: str | None = None,
    **changes: Any,
) -> Case:
    """Make a situation with user-supplied batches."""
    parts = OwnParts(
        loss=loss if loss is None or loss in LOSSES else f"{HERE}:{loss}",
        batches="m:batch",
        optimizer=optimizer,
        checkpoint_blocks=checkpointing,
    )
    made = {
        "model": "network.py:build",
        "resolution": None,
        "own": parts,
        "checkpointing": Checkpointing.ON if checkpointing else Checkpointing.OFF,
    }
    return Case(batches=batches, variant={**made, **(variant or {})}, **changes)


def pair(part: slice) -> Any:
    return IMAGES[part], LABELS[part]


def mixed(part: slice) -> Any:
    return {"image": IMAGES[part], "mask": LABELS[part], "name": ["a", "b"], "spacing": 0.5}


def with_labels(part: slice) -> Any:
    return {"pixel_values": IMAGES[part], "labels": LABELS[part]}


def detection(part: slice) -> Any:
    return list(IMAGES[part]), boxes(COUNT)[part]


def values(model: nn.Module) -> Tensor:
    return F.mse_loss(model(IMAGES), VALUES)


def classified(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IMAGES), CLASSES)


OWN_LOSS = OwnParts(loss=f"{HERE}:of_pixels")
OF_IMAGES: dict[str, Any] = {"labels": CLASSES, "whole": classified}
BINARY: dict[str, Any] = {"whole": lambda model: single_logit(model(IMAGES), LABELS)}
HALF: dict[str, Any] = {"tolerance": 0.05}
CASES: dict[str, Case] = {
    "deeplabv2": Case(),
    "deeplabv2 amp-bf16 nhwc": Case(
        variant={"precision": Precision.AMP_BF16, "memory_format": MemoryFormat.NHWC}, **HALF
    ),
    "deeplabv2 amp-fp16 adamw": Case(
        variant={"precision": Precision.AMP_FP16, "optimizer": OptimizerName.ADAMW}, **HALF
    ),
    "deeplabv2 cudnn-benchmark": Case(variant={"cudnn_benchmark": CudnnBenchmark.ON}),
    "deeplabv2 at logits": Case(
        variant={"loss_at": LossAt.LOGITS}, whole=lambda model: at_logits(model(IMAGES), LABELS)
    ),
    "deeplabv2 checkpointing": Case(
        variant={"checkpointing": Checkpointing.ON, "own": OwnParts(checkpoint_blocks="conv1")}
    ),
    "deeplabv2 in 2 processes": Case(processes=2),
    "deeplabv2 with a loss": Case(variant={"own": OWN_LOSS}),
    "deeplabv2 with a loss in 2 processes": Case(variant={"own": OWN_LOSS}, processes=2),
    "deeplabv2 with an optimizer": Case(variant={"own": OwnParts(optimizer="m:sgd")}),
    "torchvision segmentation": Case(
        model=Auxiliary,
        variant={"model": "torchvision:deeplabv3_resnet50"},
        whole=lambda model: (
            of_pixels(model(IMAGES)["out"], LABELS) + 0.5 * of_pixels(model(IMAGES)["aux"], LABELS)
        ),
    ),
    "torchvision classifier": Case(
        model=Classifier, variant={"model": "torchvision:resnet18"}, **OF_IMAGES
    ),
    "torchvision classifier with named outputs": Case(
        model=lambda: nn.Sequential(Classifier(), Wrapped(Found)),
        variant={"model": "torchvision:googlenet"},
        labels=CLASSES,
        whole=lambda model: F.cross_entropy(model(IMAGES).logits, CLASSES),
    ),
    "timm": Case(model=Classifier, variant={"model": "timm:resnet10t"}, **OF_IMAGES),
    "timm at logits": Case(
        model=Classifier,
        variant={"model": "timm:resnet10t", "loss_at": LossAt.LOGITS},
        **OF_IMAGES,
    ),
    "smp": Case(variant={"model": "smp:Unet"}),
    "transformers segmentation": Case(
        model=lambda: Returning(lambda logits: Both(loss=None, logits=logits)),
        variant={"model": "hf:segformer.json"},
        whole=lambda model: of_pixels(model(IMAGES).logits, LABELS),
    ),
    "transformers classifier": Case(
        model=lambda: nn.Sequential(Classifier(), Wrapped(lambda logits: Both(logits=logits))),
        variant={"model": "hf:vit.json", "labels_of": Problem.CLASSIFICATION},
        labels=CLASSES,
        whole=lambda model: F.cross_entropy(model(IMAGES).logits, CLASSES),
    ),
    "network": Case(variant={"model": "unet.py:UNet"}),
    "network with a tuple": Case(
        model=lambda: Returning(lambda logits: (logits, None)),
        variant={"model": "unet.py:UNet"},
        whole=lambda model: of_pixels(model(IMAGES)[0], LABELS),
    ),
    "network with a dict": Case(
        model=lambda: Returning(lambda logits: {"logits": logits}),
        variant={"model": "unet.py:UNet", "loss_at": LossAt.LOGITS},
        whole=lambda model: at_logits(model(IMAGES)["logits"], LABELS),
    ),
    "network with one logit": Case(
        model=lambda: Net(1), variant={"model": "unet.py:UNet", "classes": 1}, **BINARY
    ),
    "classifier with one logit": Case(
        model=lambda: Classifier(1),
        variant={"model": "a.py:b", "classes": 1, "labels_of": Problem.CLASSIFICATION},
        labels=CLASSES,
        whole=lambda model: F.binary_cross_entropy_with_logits(
            model(IMAGES)[:, 0], CLASSES.float()
        ),
    ),
    "volumes nhwc": Case(
        model=lambda: nn.Conv3d(3, 2, 2, stride=2),
        variant={
            "model": "a.py:b",
            "resolution": Resolution(slices=4, height=4, width=4),
            "memory_format": MemoryFormat.NHWC,
        },
        images=VOLUMES,
        labels=VOLUME_LABELS,
        whole=lambda model: of_pixels(model(VOLUMES), VOLUME_LABELS),
    ),
    "pairs": own(pair, "of_pixels"),
    "pairs amp-bf16": own(pair, "of_pixels", variant={"precision": Precision.AMP_BF16}, **HALF),
    "pairs amp-fp16 nhwc": own(
        pair,
        "of_pixels",
        variant={"precision": Precision.AMP_FP16, "memory_format": MemoryFormat.NHWC},
        **HALF,
    ),
    "pairs checkpointing": own(pair, "of_pixels", checkpointing="conv1"),
    "pairs in 2 processes": own(pair, "of_pixels", processes=2),
    "pairs with bsprobe's optimizer": own(pair, "of_pixels", optimizer=None),
    "pairs with a loss by name": own(pair, "pixel-cross-entropy"),
    "pairs with a loss by name and one logit": own(
        pair, "pixel-cross-entropy", model=lambda: Net(1), **BINARY
    ),
    "pairs with logits": own(pair),
    "pairs of masks with channels": own(
        lambda part: (IMAGES[part], LABELS[part][:, None]), variant={"model": "a.py:b"}
    ),
    "pairs with classes": own(
        lambda part: (IMAGES[part], CLASSES[part]), model=Classifier, whole=classified
    ),
    "pairs with values": own(lambda part: (IMAGES[part], VALUES[part]), "mse", whole=values),
    "pairs with several targets": own(
        lambda part: (IMAGES[part], [VALUES[part], 0]), "of_first", whole=values
    ),
    "positional inputs": own(
        lambda part: ((IMAGES[part], torch.ones(1)), LABELS[part]), "of_pixels", model=Scaled
    ),
    "keyword inputs": own(
        lambda part: ({"images": IMAGES[part], "weight": torch.ones(1)}, LABELS[part]),
        "of_pixels",
        model=Scaled,
    ),
    "a list of targets": own(
        lambda part: (IMAGES[part], boxes(COUNT)[part]),
        "of_boxes",
        whole=lambda model: of_boxes(model(IMAGES), boxes(COUNT)),
    ),
    "a dict": own(mixed, "of_pixels"),
    "a dict in 2 processes": own(mixed, "of_pixels", processes=2),
    "a dict with logits": own(mixed),
    "a dict without labels": own(
        lambda part: {"images": IMAGES[part], "weight": torch.ones(1)},
        "without_targets",
        model=Scaled,
        whole=lambda model: model(IMAGES).square().mean(),
    ),
    "a dict with several labels": own(
        lambda part: {"images": IMAGES[part], "target": VALUES[part], "gt": VALUES[part]},
        "of_first",
        model=Scaled,
        whole=values,
    ),
    "a dataclass": own(lambda part: Sample(*pair(part)), "of_pixels"),
    "a named tuple": own(lambda part: Triple(*pair(part)), "of_pixels"),
    "an object": own(lambda part: Moving(*pair(part)), "of_pixels"),
    "a loss in a dict": own(
        with_labels,
        model=lambda: WithLoss(lambda loss: {"loss": loss}),
        whole=lambda model: model(IMAGES, LABELS)["loss"],
    ),
    "a loss in an object": own(
        with_labels,
        model=lambda: WithLoss(Outcome),
        whole=lambda model: model(IMAGES, LABELS).loss,
    ),
    "a loss in a tuple": own(
        with_labels,
        model=lambda: WithLoss(lambda loss: (loss, None)),
        whole=lambda model: model(IMAGES, LABELS)[0],
    ),
    "a detector": own(
        detection,
        model=Detector,
        whole=lambda model: torch.stack([*model(list(IMAGES), boxes(COUNT)).values()]).sum(),
    ),
    "a detector in 2 processes": own(
        detection,
        model=Detector,
        processes=2,
        whole=lambda model: torch.stack([*model(list(IMAGES), boxes(COUNT)).values()]).sum(),
    ),
}


def parts() -> Sequence[slice]:
    """Return the places of the images of each user-supplied batch."""
    ends = [sum(PARTS[: number + 1]) for number in range(len(PARTS))]
    return [slice(end - size, end) for end, size in zip(ends, PARTS, strict=True)]
