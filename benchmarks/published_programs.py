"""The training steps that others measured, as they were then, and the memory they are predicted."""

import bisect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import CudnnBenchmark, Precision, Variant
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cudnn.convolutions import (
    Backend,
    Convolution,
    backend_of,
    columns_bytes,
    upper_bound_bytes,
)
from bsprobe.simulate.playback import (
    KernelLimitError,
    Playback,
    WorkspaceSource,
    cublas_workspace_bytes,
)
from bsprobe.simulate.timeline import Section
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.simulate.versions import Change, Version, has
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task

RENAMED: Final = {
    "convnext_tiny_hnfd": "convnext_tiny_hnf",  # timm 0.8 dropped one of two alike
    # The 50 had the layers of the 26 until timm 0.8: [2, 2, 2, 2] in resnet.py.
    "ecaresnext50t_32x4d": "ecaresnext26t_32x4d",
    # timm's own table of old names sends these to the 32x8d network.
    "ig_resnext101_32x16d": "resnext101_32x16d",
    "ig_resnext101_32x32d": "resnext101_32x32d",
    "ig_resnext101_32x48d": "resnext101_32x48d",
    "vit_base_patch16_224_sam": "vit_base_patch16_224",  # the weights differ
}
"""Names that timm does not map to today's by itself."""


class EstimatedWorkspaces:
    """Workspaces estimated from the sizes alone."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Give the one candidate."""
        match backend_of(convolution, capability=(7, 0), cudnn_version=0):
            case Backend.CUDNN:
                return (upper_bound_bytes(convolution),)
            case Backend.COLUMNS:
                return (columns_bytes(convolution),)
            case Backend.DEPTHWISE:
                return (0,)


class NoWorkspaces:
    """Convolutions that take nothing: what remains is the program's tensors."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Give the one candidate."""
        del convolution
        return (0,)


Step = Callable[[Task, Batch | OwnBatch], None]
"""One step of a program, as its loop runs it."""
NewOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


class ProgramTracer(StepTracer):
    """The step of a program of others, with the PyTorch of then.

    Args:
        variant: What it trains.
        version: The PyTorch that it ran with.
        optimizer: Makes its optimizer from the parameters.
        step: Runs one step; None: bsprobe's, with the habits of the variant.
        processes: The number of them.
    """

    def __init__(
        self,
        variant: Variant,
        version: Version,
        *,
        optimizer: NewOptimizer,
        step: Step | None = None,
        processes: int = 1,
    ) -> None:
        self._new_optimizer = optimizer
        self._step = step
        super().__init__(variant, processes=processes, version=version)

    def _task(self) -> Task:
        task = super()._task()
        task.optimizer = self._new_optimizer(list(task.model.parameters()))
        task.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for group in task.optimizer.param_groups:
            group["foreach"] = has(self._version, Change.OPTIMIZERS_USE_FOREACH)
        return task

    def run_step(self, task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> None:
        """Run the program's own step where it has one."""
        if self._step is None:
            super().run_step(task, micro_batches)
        else:
            self._step(task, micro_batches[0])


def timm_step(task: Task, batch: Batch | OwnBatch) -> None:
    """`TrainBenchmarkRunner.run` in timm's benchmark.py: the backward pass is inside autocast.

    The target is drawn anew in each step; the output lives until the step ends.
    """
    task.optimizer.zero_grad(set_to_none=False)
    with torch.autocast("cpu", dtype=torch.float16):
        output = batch.outputs_of(task.model)
        target = torch.empty(output.shape[0], dtype=torch.int64).random_(output.shape[1])
        functional.cross_entropy(output, target).backward()
    task.optimizer.step()


def timm_tracer(model: str, size: int) -> ProgramTracer:
    """Timm's TrainBenchmarkRunner: SGD with Nesterov momentum, no decay, no GradScaler."""
    variant = Variant(
        model=f"timm:{RENAMED.get(model, model)}",
        resolution=Resolution(height=size, width=size),
        precision=Precision.AMP_FP16,
        cudnn_benchmark=CudnnBenchmark.ON,
        classes=1000,
    )
    return ProgramTracer(
        variant,
        (1, 12),
        optimizer=partial(torch.optim.SGD, lr=1e-4, momentum=0.9, nesterov=True),
        step=timm_step,
    )


def peak_bytes(
    tracer: StepTracer,
    batch: int,
    workspaces: WorkspaceSource,
    *,
    benchmark: CudnnBenchmark,
    available_bytes: int | None = None,
) -> int | None:
    """Peak allocated of a few steps; None where they do not run in the memory that there is."""
    allocator = CachingAllocator(SimulatedDriver(available_bytes=available_bytes))
    timeline = tracer.timeline(batch)
    playback = Playback(
        timeline,
        batch,
        allocator=allocator,
        workspaces=workspaces,
        benchmark=benchmark,
        cublas_bytes=cublas_workspace_bytes((8, 6)),
    )
    try:
        for section in (Section.SETUP, *timeline.steps(3)):
            playback.play(section)
            if section is Section.FIRST_STEP:
                allocator.reset_peaks()  # without what timing the convolutions takes
    except (SimulatedOutOfMemoryError, KernelLimitError):
        return None
    return allocator.statistics.peak_allocated_bytes


def needed_bytes(peak: Callable[..., int | None], batch: int) -> int | None:
    """The least memory that the steps run in, to 16 MiB; None where no memory is enough."""
    allocated = peak(batch)
    if allocated is None:
        return None
    tried = range(allocated, allocated * 2, 16 * MIB)
    place = bisect.bisect(tried, 0, key=lambda size: peak(batch, available_bytes=size) is not None)
    return tried[place]
