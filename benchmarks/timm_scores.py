"""Predictions for timm's training benchmark: the batch that ran and the next one, which did not."""

import bisect
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from benchmarks.published_programs import ProgramTracer, peak_bytes
from bsprobe.records.errors import BsprobeError
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import CudnnBenchmark, Precision, Variant
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task

IN_PLACE: Final = ("tresnet_", "_iabn")
"""Name parts of networks whose batch norm was in place then, from a separate package."""


RENAMED: Final = {
    "convnext_tiny_hnfd": "convnext_tiny_hnf",  # timm 0.8 dropped one of two equal networks
    # The 50 had the layers of the 26 until timm 0.8: [2, 2, 2, 2] in resnet.py.
    "ecaresnext50t_32x4d": "ecaresnext26t_32x4d",
    # timm's own table of old names sends these to the 32x8d network.
    "ig_resnext101_32x16d": "resnext101_32x16d",
    "ig_resnext101_32x32d": "resnext101_32x32d",
    "ig_resnext101_32x48d": "resnext101_32x48d",
    "vit_base_patch16_224_sam": "vit_base_patch16_224",  # the weights differ
}
"""Old names that timm does not map to its current ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmRow:
    """A row of timm's table and its prediction."""

    model: str
    image_size: int
    fits: int
    next_rung_failed: int
    known: bool
    """True if the row was examined while the prediction was developed."""
    left_out: str | None = None
    """The reason if the row cannot be compared."""
    allocated_at_fits: int | None = None
    """Bytes on a card of unlimited memory; None if a kernel cannot run the batch."""
    allocated_at_next: int | None = None
    needed_at_fits: int | None = None
    """The smallest allocator limit in bytes, to 16 MiB, with which the steps run. Reserved memory
    counts."""
    needed_at_next: int | None = None


def timm_row(row: dict[str, str], workspaces: Workspaces) -> TimmRow:
    """Predict the memory at the batch that ran and at the next, which did not."""
    fits, following = int(row["fits"]), int(row["next_rung_failed"])
    found = TimmRow(
        model=row["model"],
        image_size=int(row["image_size"]),
        fits=fits,
        next_rung_failed=following,
        known=row["known"] == "yes",
    )
    if any(part in row["model"] for part in IN_PLACE):
        return dataclasses.replace(found, left_out="its batch norm worked in place then")
    try:
        tracer = timm_tracer(row["model"], int(row["image_size"]))
        peak = partial(peak_bytes, tracer, workspaces=workspaces, benchmark=CudnnBenchmark.ON)
        found = dataclasses.replace(
            found,
            allocated_at_fits=peak(fits),
            allocated_at_next=peak(following),
            needed_at_fits=needed_bytes(peak, fits),
            needed_at_next=needed_bytes(peak, following),
        )
    except BsprobeError as error:
        return dataclasses.replace(found, left_out=str(error))
    then, now = float(row["million_parameters"]), tracer.facts.parameters / 1e6
    if abs(now - then) > 0.01 + 0.002 * then:
        reason = f"another network today: {now:.2f} million parameters, then {then:.2f}"
        return dataclasses.replace(found, left_out=reason)
    return found


def timm_step(task: Task, batch: Batch | OwnBatch) -> None:
    """Run one step of `TrainBenchmarkRunner.run` in timm's benchmark.py, with backward in autocast.

    The target is drawn in each step; the output lives until the step ends.
    """
    task.optimizer.zero_grad(set_to_none=False)
    with torch.autocast("cpu", dtype=torch.float16):
        output = batch.outputs_of(task.model)
        target = torch.empty(output.shape[0], dtype=torch.int64).random_(output.shape[1])
        functional.cross_entropy(output, target).backward()
    task.optimizer.step()


def timm_tracer(model: str, size: int) -> ProgramTracer:
    """Trace timm's TrainBenchmarkRunner: SGD with Nesterov momentum, no decay, no GradScaler."""
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


def needed_bytes(peak: Callable[..., int | None], batch: int) -> int | None:
    """Return the least memory that the steps run in, to 16 MiB; None if no amount is enough."""
    allocated = peak(batch)
    if allocated is None:
        return None
    tried = range(allocated, allocated * 2, 16 * MIB)
    place = bisect.bisect(tried, 0, key=lambda size: peak(batch, available_bytes=size) is not None)
    return tried[place]
