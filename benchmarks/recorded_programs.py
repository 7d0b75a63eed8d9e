"""Training steps whose memory others recorded event by event, written as in their sources."""

from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from benchmarks.published_programs import ProgramTracer
from bsprobe.records.habits import BatchPlace, Habits
from bsprobe.records.units import Resolution
from bsprobe.records.variants import CudnnBenchmark, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Kind
from bsprobe.simulate.trace.recorder import Recorder
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task

BATCH: Final = 32
CLASSES: Final = 1000
_RESNET = Variant(
    model="torchvision:resnet50",
    resolution=Resolution(height=224, width=224),
    classes=CLASSES,
)


def kineto_step(task: Task, batch: Batch | OwnBatch) -> None:
    """Run one iteration of tb_plugin/examples/resnet50_profiler_api.py in pytorch/kineto.

    Outputs and loss are variables of the loop: each old value lives until the new one is assigned.
    The batch is moved before the step.
    """
    task.kept_outputs = batch.outputs_of(task.model)
    task.kept_loss = functional.cross_entropy(task.kept_outputs, batch.targets)
    task.optimizer.zero_grad(set_to_none=False)
    task.kept_loss.backward()
    task.optimizer.step()


def hta_step(task: Task, batch: Batch | OwnBatch) -> None:
    """Run one iteration of the program that HTA recorded, whose source is not in its repository.

    Inferred from its events: gradients are freed before the forward pass, the outputs live until
    the next ones are made, the loss until the backward pass ends. Except for the place of
    `zero_grad`, the loop and the labels (`torch.rand_like(model(inputs))`) are those of the example
    in PyTorch's blog, "Understanding GPU Memory 1", appendix B.
    """
    task.optimizer.zero_grad(set_to_none=True)
    task.kept_outputs = batch.outputs_of(task.model)
    functional.cross_entropy(task.kept_outputs, batch.targets).backward()
    task.optimizer.step()


class KinetoTracer(ProgramTracer):
    """Kineto's example, with PyTorch 1.9."""

    def __init__(self) -> None:
        moved = OwnParts(habits=Habits(batch=BatchPlace.OVERLAPPING))
        super().__init__(
            replace(_RESNET, own=moved, cudnn_benchmark=CudnnBenchmark.ON),
            (1, 9),
            optimizer=partial(torch.optim.SGD, lr=0.001, momentum=0.9),
            step=kineto_step,
        )

    def _task(self) -> Task:
        task = super()._task()
        for module in task.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(_count_batch)
        return task


class HtaTracer(ProgramTracer):
    """The program of HTA's memory timeline, with PyTorch 2.1."""

    def __init__(self) -> None:
        super().__init__(
            _RESNET,
            (2, 1),
            optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9),
            step=hta_step,
        )

    def _batch(self, size: int, recorder: Recorder) -> Batch:
        """Return a batch whose labels are a probability for each class."""
        labels = torch.zeros(size, CLASSES)
        recorder.adopt(labels, Kind.BATCH)
        return Batch(images=super()._batch(size, recorder).images, labels=labels)


def _count_batch(norm: nn.BatchNorm2d, _: Any) -> None:
    """Count a batch in a new tensor, like `_BatchNorm.forward` of PyTorch 1.9.

    Source: torch/nn/modules/batchnorm.py, `self.num_batches_tracked = self.num_batches_tracked
    + 1`; the current PyTorch counts in place.
    """
    assert norm.num_batches_tracked is not None  # noqa: S101 - all norms of torchvision count
    norm.num_batches_tracked = norm.num_batches_tracked + 1
