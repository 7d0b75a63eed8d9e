"""The training step of xMem's measured runs."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from torch.nn import functional

from benchmarks.published_programs import ProgramTracer
from bsprobe.records.habits import BatchPlace, Habits
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.records.workload import OwnParts
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task

NETWORKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ConvNeXtBase": "convnext_base",
        "ConvNeXtTiny": "convnext_tiny",
        "MnasNet": "mnasnet1_0",
        "MobeNetV3Small": "mobilenet_v3_small",
        "MobileNetV2": "mobilenet_v2",
        "RegNetX400MF": "regnet_x_400mf",
        "RegNetY400MF": "regnet_y_400mf",
        "ResNet101": "resnet101",
        "VGG16": "vgg16",
        "VGG19": "vgg19",
    }
)
"""Networks of the runs and their names in torchvision."""
_TEN_CLASSES: Final = ("MnasNet", "MobeNetV3Small")
PYTORCH: Final = (2, 6)
"""Version of PyTorch in xMem's runs: 2.6.0+cu124."""
ITERATIONS: Final = 4


def xmem_step(task: Task, batch: Batch | OwnBatch) -> None:
    """Run one iteration: gradients are dropped between the loss and the backward pass.

    Outputs, loss and predicted classes live until the next iteration replaces them.
    """
    _, predicted = task.kept_outputs or (None, None)
    outputs = batch.outputs_of(task.model)
    task.kept_outputs = outputs, predicted
    task.kept_loss = functional.cross_entropy(outputs, batch.targets)
    task.optimizer.zero_grad()
    task.kept_loss.backward()
    task.optimizer.step()
    task.kept_outputs = outputs, outputs.argmax(dim=1)


def xmem_tracer(network: str, optimizer: str) -> ProgramTracer:
    """Trace a network of the runs with one of their optimizers, in its default settings."""
    variant = Variant(
        model=f"torchvision:{NETWORKS[network]}",
        resolution=Resolution(height=86, width=86),
        classes=10 if network in _TEN_CLASSES else 1000,
        own=OwnParts(habits=Habits(batch=BatchPlace.MOVED)),
    )
    make: Callable[..., Any] = getattr(torch.optim, optimizer)
    return ProgramTracer(variant, PYTORCH, optimizer=partial(make, lr=1e-3), step=xmem_step)
