"""Training steps of the published measurements, with the PyTorch of their time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bsprobe.records.gpus import DEFAULT_GPU, Gpu, find_gpu
from bsprobe.records.variants import CudnnBenchmark, Variant
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.allocator.statistics import AllocatorStatistics
from bsprobe.simulate.cuda.libraries import multiprocessors_of
from bsprobe.simulate.cudnn.convolutions import (
    ITEM_BYTES,
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
from bsprobe.simulate.versions import Version
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task


class EstimatedWorkspaces:
    """Workspaces estimated from the sizes alone."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Return the one candidate."""
        match backend_of(convolution, capability=(7, 0), cudnn_version=0):
            case Backend.CUDNN:
                return (upper_bound_bytes(convolution),)
            case Backend.COLUMNS:
                return (columns_bytes(convolution),)
            case Backend.DEPTHWISE:
                return (0,)


class WinogradWorkspaces:
    """Workspaces of cuDNN's non-fused Winograd transform if it can run, else none.

    `CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED` and its backward counterparts support 3 by 3
    kernels with stride 1. They keep input, weight and output in the transform's domain: 36 numbers
    for each channel and tile of 4 by 4 outputs (Lavin and Gray, arXiv:1509.09308, F(4x4, 3x3)).
    """

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Return the one candidate."""
        is_served = (
            convolution.weight_size[2:] == (3, 3)
            and set(convolution.stride + convolution.dilation) == {1}
            and convolution.groups == 1
        )
        if not is_served:
            return (0,)
        height, width = convolution.output_size[2:]
        tiles = convolution.input_size[0] * -(-height // 4) * -(-width // 4)
        outputs, inputs = convolution.weight_size[:2]
        numbers = 36 * (tiles * (inputs + outputs) + inputs * outputs)
        return (numbers * ITEM_BYTES[convolution.dtype],)


class NoWorkspaces:
    """Convolutions without workspaces: only the program's tensors take memory."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Return the one candidate."""
        del convolution
        return (0,)


Step = Callable[[Task, Batch | OwnBatch], None]
"""One step of a program's training loop."""
NewOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


class ProgramTracer(StepTracer):
    """Tracer of a published program's step, with the PyTorch that it ran with.

    Args:
        variant: The network and settings that it trains.
        version: The PyTorch version to imitate.
        optimizer: Makes the optimizer from the parameters.
        step: Runs one step; None for bsprobe's step, with the habits of the variant.
        processes: The number of distributed processes.
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
        self._choose_loop(task.optimizer)
        return task

    def run_step(self, task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> None:
        """Run the program's step, or bsprobe's if it has none."""
        if self._step is None:
            super().run_step(task, micro_batches)
        else:
            self._step(task, micro_batches[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The result of playing some steps on a card."""

    fits: bool
    """True if the steps fit in the available memory."""
    statistics: AllocatorStatistics
    """At the end, or when memory ran out."""


def played(
    tracer: StepTracer,
    batch: int,
    workspaces: WorkspaceSource,
    *,
    steps: int,
    gpu: Gpu,
    benchmark: CudnnBenchmark = CudnnBenchmark.OFF,
    available_bytes: int | None = None,
) -> Played:
    """Play steps on a card.

    Args:
        tracer: The tracer of the step.
        batch: The batch size.
        workspaces: The workspaces of the card's convolutions.
        steps: The least number of steps.
        gpu: The card.
        benchmark: Timing of cuDNN's plans; if on, peaks of the first step are not counted.
        available_bytes: The memory for the allocator; None for unlimited.
    """
    allocator = CachingAllocator(SimulatedDriver(available_bytes=available_bytes))
    timeline = tracer.timeline(batch)
    playback = Playback(
        timeline,
        batch,
        allocator=allocator,
        workspaces=workspaces,
        benchmark=benchmark,
        cublas_bytes=cublas_workspace_bytes(gpu.capability),
        multiprocessors=multiprocessors_of(gpu),
    )
    try:
        for section in (Section.SETUP, *timeline.steps(steps)):
            playback.play(section)
            if section is Section.FIRST_STEP and benchmark is CudnnBenchmark.ON:
                allocator.reset_peaks()
    except (SimulatedOutOfMemoryError, KernelLimitError):
        return Played(fits=False, statistics=allocator.statistics)
    return Played(fits=True, statistics=allocator.statistics)


def peak_bytes(
    tracer: StepTracer,
    batch: int,
    workspaces: WorkspaceSource,
    *,
    benchmark: CudnnBenchmark,
    available_bytes: int | None = None,
) -> int | None:
    """Return the peak allocated bytes of a few steps; None if they do not fit.

    Args:
        tracer: The tracer of the step.
        batch: The batch size.
        workspaces: The workspaces of the card's convolutions.
        benchmark: Timing of cuDNN's plans.
        available_bytes: The memory for the allocator; None for unlimited.
    """
    found = played(
        tracer,
        batch,
        workspaces,
        steps=3,
        gpu=find_gpu(DEFAULT_GPU),
        benchmark=benchmark,
        available_bytes=available_bytes,
    )
    return found.statistics.peak_allocated_bytes if found.fits else None
