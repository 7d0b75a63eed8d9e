"""The training steps that others measured, as they were then, and the memory they are predicted."""

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
        """Give the one candidate."""
        match backend_of(convolution, capability=(7, 0), cudnn_version=0):
            case Backend.CUDNN:
                return (upper_bound_bytes(convolution),)
            case Backend.COLUMNS:
                return (columns_bytes(convolution),)
            case Backend.DEPTHWISE:
                return (0,)


class WinogradWorkspaces:
    """Workspaces of cuDNN's non-fused Winograd transform where it can run, else none.

    `CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED` and its backward namesakes serve 3 by 3 kernels
    in steps of one. They keep input, weight and output in the transform's domain: 36 numbers for
    each channel and tile of 4 by 4 outputs (Lavin and Gray, arXiv:1509.09308, F(4x4, 3x3)).
    """

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Give the one candidate."""
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
        self._choose_loop(task.optimizer)
        return task

    def run_step(self, task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> None:
        """Run the program's own step where it has one."""
        if self._step is None:
            super().run_step(task, micro_batches)
        else:
            self._step(task, micro_batches[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """Some steps of a program on a card."""

    fits: bool
    """True where they run in the memory that there is."""
    statistics: AllocatorStatistics
    """At the end, or where memory was out."""


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
        tracer: Of the step.
        batch: Its images.
        workspaces: Those of the card's convolutions.
        steps: The number of steps, at the least.
        gpu: The card.
        benchmark: Timing of cuDNN's plans; what it takes in the first step is not counted.
        available_bytes: The memory for the allocator; None: as much as is asked for.
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
    """Peak allocated of a few steps; None where they do not run in the memory that there is."""
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
