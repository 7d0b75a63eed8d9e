"""The training steps that others measured, as they were then, and the memory they are predicted."""

import bisect
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import CudnnBenchmark, Precision, Variant
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cuda import autocast
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.playback import KernelLimitError, Playback, cublas_workspace_bytes
from bsprobe.simulate.timeline import Section
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training.step import Task

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


def interpolate_in_half() -> None:
    """Have autocast leave interpolation in half, as until 2.4 (pytorch/pytorch#121072)."""
    then = tuple(name for name in autocast.FP32 if "upsample" not in name)
    setattr(autocast, "FP32", then)  # noqa: B010 - mypy knows the table's length


class OlderTracer(StepTracer):
    """The step of programs that clear gradients to zero, as PyTorch did until 2.0.

    Args:
        variant: What to train.
        optimizer: Makes the program's own from parameters; None: bsprobe's.
    """

    def __init__(
        self,
        variant: Variant,
        optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
        *,
        processes: int = 1,
    ) -> None:
        self._new_optimizer = optimizer
        super().__init__(variant, processes=processes)

    def _task(self) -> Task:
        task = super()._task()
        if self._new_optimizer is not None:
            task.optimizer = self._new_optimizer(list(task.model.parameters()))
            task.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for group in task.optimizer.param_groups:
            group["foreach"] = False  # as then
        clear = task.optimizer.zero_grad
        task.optimizer.zero_grad = lambda **_: clear(set_to_none=False)  # type: ignore[method-assign] # the program's own
        return task


class AutocastUntilUpdate:
    """Autocast as timm's benchmark uses it: the backward pass runs inside it as well.

    `TrainBenchmarkRunner.run` in timm's benchmark.py leaves it just before the optimizer's step.
    """

    def __init__(self) -> None:
        self._autocast = torch.autocast("cpu", dtype=torch.float16)

    def __enter__(self) -> None:
        self._autocast.__enter__()

    def __exit__(self, error: object, *_: object) -> None:
        """Stay inside, unless the forward pass failed: BatchNorm's does on one value a channel."""
        if error is not None:
            self.close()

    def close(self, *_: object) -> None:
        """Leave it: a hook before the optimizer's step."""
        self._autocast.__exit__(None, None, None)


@dataclass(slots=True, kw_only=True)
class TimmTask(Task):
    """A task with that autocast."""

    inside: AutocastUntilUpdate

    def autocast(self) -> AutocastUntilUpdate:
        """Of the forward pass, the loss and the backward pass."""
        return self.inside


class TimmTracer(OlderTracer):
    """The step of timm's benchmark."""

    def _task(self) -> Task:
        task = super()._task()
        fields = {each.name: getattr(task, each.name) for each in dataclasses.fields(task)}
        inside = AutocastUntilUpdate()
        task.optimizer.register_step_pre_hook(inside.close)
        return TimmTask(**fields, inside=inside)


def timm_tracer(model: str, size: int) -> TimmTracer:
    """Timm's TrainBenchmarkRunner: SGD with Nesterov momentum, no decay, no GradScaler."""
    variant = Variant(
        model=f"timm:{RENAMED.get(model, model)}",
        resolution=Resolution(height=size, width=size),
        precision=Precision.AMP_FP16,
        cudnn_benchmark=CudnnBenchmark.ON,
        classes=1000,
    )
    return TimmTracer(variant, partial(torch.optim.SGD, lr=1e-4, momentum=0.9, nesterov=True))


def peak_bytes(
    tracer: StepTracer,
    batch: int,
    workspaces: Workspaces,
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
