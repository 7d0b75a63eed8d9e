"""The prediction against memory that others measured: timm's benchmark and mmsegmentation's zoo.

What was measured, on which machine, with which step, stands in data/published/README.md. From a
checkout, with timm installed; it takes minutes, and --resume goes on with the rows that are left:

    python benchmarks/published.py --out reports/published [--resume]

The folder gets `timm.csv`, `mmseg.csv`, `report.md`, `memory.png` and `results.json`. cuDNN's
answers are those of the version that is installed, not of the version then: that cannot be had.
"""

import argparse
import bisect
import csv
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from published_card import CARD_BYTES, DATA, OTHER_OUTSIDE_BYTES, outside_bytes
from published_report import write_report

from bsprobe.simulate.allocator import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.cuda_semantics import autocast
from bsprobe.simulate.driver import SimulatedDriver
from bsprobe.simulate.playback import KernelLimitError, Playback, cublas_workspace_bytes
from bsprobe.simulate.timeline import Section
from bsprobe.simulate.trace import StepTracer
from bsprobe.simulate.workspace import Workspaces
from bsprobe.training.step import Task
from bsprobe.units import MIB, Resolution
from bsprobe.variants import CudnnBenchmark, Precision, Variant

LADDER: Final = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
"""The batch sizes that timm's benchmark tries, until one runs."""
RENAMED: Final = {
    "convnext_tiny_hnfd": "convnext_tiny_hnf",  # timm 0.8 dropped one of two alike
    # The 50 had the layers of the 26 until timm 0.8: [2, 2, 2, 2] in resnet.py.
    "ecaresnext50t_32x4d": "ecaresnext26t_32x4d",
    # timm's own table of old names sends this one to the 32x8d network.
    "ig_resnext101_32x16d": "resnext101_32x16d",
    "vit_base_patch16_224_sam": "vit_base_patch16_224",  # the weights differ
}
"""Names that timm does not map to today's by itself."""
_STEPS: Final = (Section.SETUP, Section.FIRST_STEP, Section.LATER_STEP, Section.LATER_STEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmRow:
    """A row of timm's table and what is predicted for it."""

    model: str
    image_size: int
    fits: int
    next_rung_failed: int
    predicted: int | None
    """The rung that the simulated walk down the ladder ends on; None: not even batch 1 ran."""
    predicted_otherwise: tuple[int | None, ...]
    """The same for each of `OTHER_OUTSIDE_BYTES`."""
    allocated_at_fits: int
    """Bytes, on a card that is large enough."""
    allocated_at_next: int
    needed_at_fits: int
    """The least that the allocator can be left with for the steps to run, to 16 MiB: what it must
    reserve is among it."""
    needed_at_next: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MmsegRow:
    """A row of mmsegmentation's table and what is predicted for it."""

    model: str
    crop_hw: str
    measured_gb: float
    predicted_bytes: int
    """`max_memory_allocated`, DDP's buckets among it."""


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
    ) -> None:
        self._new_optimizer = optimizer
        super().__init__(variant)

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
    playback = Playback(
        tracer.timeline(batch),
        batch,
        allocator=allocator,
        workspaces=workspaces,
        benchmark=benchmark,
        cublas_bytes=cublas_workspace_bytes((8, 6)),
    )
    try:
        for section in _STEPS:
            playback.play(section)
            if section is Section.FIRST_STEP:
                allocator.reset_peaks()  # without what timing the convolutions takes
    except (SimulatedOutOfMemoryError, KernelLimitError):
        return None
    return allocator.statistics.peak_allocated_bytes


def needed_bytes(peak: Callable[..., int | None], batch: int) -> int:
    """The least memory that the steps run in, to 16 MiB."""
    allocated = peak(batch) or 0
    tried = range(allocated, allocated * 2, 16 * MIB)
    place = bisect.bisect(tried, 0, key=lambda size: peak(batch, available_bytes=size) is not None)
    return tried[place]


def timm_row(row: dict[str, str], workspaces: Workspaces) -> TimmRow:
    """Walk down the ladder; by halves, for what runs on a rung runs on those below."""
    fits, following = int(row["fits"]), int(row["next_rung_failed"])
    tracer = timm_tracer(row["model"], int(row["image_size"]))
    peak = partial(peak_bytes, tracer, workspaces=workspaces, benchmark=CudnnBenchmark.ON)

    def rung(outside: int) -> int | None:
        available = CARD_BYTES - outside
        place = bisect.bisect(
            LADDER, 0, key=lambda batch: peak(batch, available_bytes=available) is not None
        )
        return LADDER[place] if place < len(LADDER) else None

    return TimmRow(
        model=row["model"],
        image_size=int(row["image_size"]),
        fits=fits,
        next_rung_failed=following,
        predicted=rung(outside_bytes()),
        predicted_otherwise=tuple(rung(each) for each in OTHER_OUTSIDE_BYTES),
        allocated_at_fits=peak(fits) or 0,
        allocated_at_next=peak(following) or 0,
        needed_at_fits=needed_bytes(peak, fits),
        needed_at_next=needed_bytes(peak, following),
    )


def mmseg_row(row: dict[str, str], workspaces: Workspaces) -> MmsegRow:
    """Two images a GPU; DDP keeps a flat copy of all gradients."""
    names = {"FCN R-50-D8": "fcn_r50_d8", "FCN R-101-D8": "fcn_r101_d8"}
    height, width = map(int, row["crop_hw"].split("x"))
    tracer = OlderTracer(
        Variant(
            model=f"mmseg_networks:{names[row['model']]}",
            resolution=Resolution(height=height, width=width),
        )
    )
    batch = int(row["batch_per_gpu"])
    peak = peak_bytes(tracer, batch, workspaces, benchmark=CudnnBenchmark.OFF)
    assert peak is not None  # noqa: S101 - the card is large enough
    return MmsegRow(
        model=row["model"],
        crop_hw=row["crop_hw"],
        measured_gb=float(row["mem_gb"]),
        predicted_bytes=peak + 4 * tracer.facts.parameters,
    )


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a published table."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predicted(
    rows: Sequence[dict[str, str]],
    predict: Callable[[dict[str, str]], TimmRow | MmsegRow],
    known: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Predict row by row, but for those that are known, and show how far it is."""
    for count, row in enumerate(rows, start=1):
        name = " ".join((row["model"], row.get("crop_hw", ""))).strip()
        if name not in known:
            known[name] = dataclasses.asdict(predict(row))
        print(f"{count}/{len(rows)} {known[name]}", flush=True)
        yield known[name]


def main() -> None:
    """Predict what is not known yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/published"))
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--only", default="", help="timm rows whose name contains this")
    given = parser.parse_args()
    os.environ["TIMM_FUSED_ATTN"] = "0"  # read when timm is imported
    warnings.filterwarnings("ignore", module="timm")
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "results.json"
    known = json.loads(kept.read_text()) if given.resume and kept.exists() else {}
    # Autocast left interpolation in half precision until 2.4 (pytorch/pytorch#121072).
    then = tuple(name for name in autocast.FP32 if "upsample" not in name)
    setattr(autocast, "FP32", then)  # noqa: B010 - mypy knows the table's length
    with Workspaces((8, 6)) as ampere, Workspaces((7, 0), allow_tf32=False) as volta:
        tables = (
            ("mmseg.csv", partial(mmseg_row, workspaces=volta)),
            ("timm-rtx3090-amp.csv", partial(timm_row, workspaces=ampere)),
        )
        for table, predict in tables:
            rows = [row for row in rows_of(table) if given.only in row["model"]]
            for _ in predicted(rows, predict, known):
                kept.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    write_report(
        given.out,
        known,
        software=f"PyTorch {torch.__version__}, cuDNN {ampere.cudnn_version or 'unasked'} and "
        f"timm {version('timm')}",
        notes=(*ampere.notes, *volta.notes),
    )


if __name__ == "__main__":
    main()
