"""The training steps that others measured, as they were then, and the memory they are predicted."""

from collections.abc import Callable, Sequence

import torch

from bsprobe.records.variants import CudnnBenchmark, Variant
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
