"""Run one search of one tool in this process, under a real memory limit, for `peers.py`.

    python benchmarks/peers_search.py TOOL EVENTS --device cpu --memory-limit 1GiB ...

Events are appended to the file EVENTS as lines of JSON, so that they survive the death of this
process: `ready`, `try` (a batch), `step` (a batch whose optimizer update is done), `answer`,
`trained` (the answer ran for three steps in this same process), `error`.

Every tool trains the same network with the same loss and optimizer: bsprobe's. Ultralytics' own
package is not used: `autobatch` follows its published method (docs.ultralytics.com, reference of
`utils/autobatch`): 1, 2, 4, 8 and 16 images forward and backward, without loss or optimizer, a
straight line through the memory, 60 % of the free memory; the answer is computed and not run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bsprobe.devices.selection import open_device
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.units import KIB, parse_bytes, parse_resolution
from bsprobe.records.variants import Variant
from bsprobe.training.batches import synthetic_batch
from bsprobe.training.losses import segmentation_loss, valid_pixels
from bsprobe.training.models.factory import build_model
from bsprobe.training.optimizers import build_optimizer, parameter_groups
from bsprobe.training.step import LEARNING_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bsprobe.devices.cpu import CpuDevice

STEPS = 3
"""Lightning's default number of steps per trial, used for all tools."""
_ACCELERATE_START = 128
"""accelerate's default."""
_AUTOBATCH_SIZES = (1, 2, 4, 8, 16)
_AUTOBATCH_SHARE = 0.60
_AUTOBATCH_DEFAULT = 16
_AUTOBATCH_LARGEST = 1024
"""Ultralytics returns its default if the line gives less than 1 or more than this."""
_IMAGES = 4096
"""Size of the data set that Lightning draws from, enough for every batch that it may try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Network, device and memory meter, the same for every tool."""

    variant: Variant
    device: torch.device
    memory: Memory
    log: Log


class Log:
    """The file of events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()

    def __call__(self, event: str, **body: object) -> None:
        """Append an event, with the seconds since the start."""
        line = {"event": event, "seconds": time.monotonic() - self._started, **body}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Memory:
    """The memory that the device holds, in bytes, as AutoBatch measures it."""

    def __init__(self, device: torch.device, cpu: CpuDevice | None, total_bytes: int) -> None:
        self._device = device
        self._cpu = cpu
        self.total_bytes = total_bytes
        self._before = self._counted()

    def left(self) -> int:
        """Return the bytes counted by the limit, above those counted before the search."""
        return self._counted() - self._before

    def _counted(self) -> int:
        if self._cpu is None:
            return torch.cuda.memory_reserved(self._device)
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmData:")]
        return int(line.split()[1]) * KIB

    def held(self) -> int:
        """Return the bytes held now: on CUDA reserved plus allocated, as in Ultralytics."""
        if self._cpu is not None:
            self._cpu.reset_peak()
            return self._cpu.peak().allocated_bytes
        device = self._device
        return torch.cuda.memory_reserved(device) + torch.cuda.memory_allocated(device)

    @contextmanager
    def peak(self, found: list[int]) -> Iterator[None]:
        """Append the peak of the block, unless the block raises."""
        if self._cpu is not None:
            self._cpu.reset_peak()
        yield
        found.append(
            torch.cuda.memory_reserved(self._device)
            if self._cpu is None
            else self._cpu.peak().allocated_bytes
        )


def train(bench: Bench, batch_size: int, *, is_trial: bool = True) -> None:
    """Build network, optimizer and data, and run three steps.

    The code follows accelerate's guide and creates no reference cycle: a cycle would keep the
    network of a failed trial in memory until the next collection, to the tool's disadvantage.
    """
    if is_trial:
        bench.log("try", batch=batch_size, held_bytes=bench.memory.left())
    model = build_model(bench.variant).to(bench.device)
    optimizer = build_optimizer(
        bench.variant.optimizer, parameter_groups(model), learning_rate=LEARNING_RATE
    )
    batch = synthetic_batch(bench.variant, batch_size, device=bench.device, seed=0)
    valid = valid_pixels(batch.labels)
    for _ in range(STEPS):
        segmentation_loss(model(batch.images), batch.labels, valid).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if is_trial:
            bench.log("step", batch=batch_size)


def search_accelerate(bench: Bench) -> int:
    """Run accelerate's `find_executable_batch_size`, with its defaults."""
    from accelerate.utils import find_executable_batch_size  # noqa: PLC0415 - one tool a process

    def run(batch_size: int) -> int:
        train(bench, batch_size)
        return batch_size

    search = find_executable_batch_size(run, starting_batch_size=_ACCELERATE_START)
    found = int(search())
    bench.log("answer", batch=found)
    train(bench, found, is_trial=False)
    return found


def lightning_module(bench: Bench) -> Any:
    """Wrap the network for Lightning; the module logs each batch of the search."""
    import lightning.pytorch as pl  # noqa: PLC0415 - one tool a process

    class Module(pl.LightningModule):  # type: ignore[misc] # untyped without the extra "peers"
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = 1
            self.is_searched = True
            self.model = build_model(bench.variant)

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            images, labels = batch
            return segmentation_loss(self.model(images), labels, valid_pixels(labels))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            groups = parameter_groups(self.model)
            return build_optimizer(bench.variant.optimizer, groups, learning_rate=LEARNING_RATE)

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Images(bench.variant), batch_size=self.batch_size)

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            if index == 0 and self.is_searched:
                bench.log("try", batch=len(batch[0]), held_bytes=bench.memory.left())

        def on_train_batch_end(self, _: Any, batch: Any, index: int) -> None:
            if self.is_searched:
                bench.log("step", batch=len(batch[0]), index=index)

    return Module()


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same synthetic image and label at every index."""

    def __init__(self, variant: Variant) -> None:
        self._single = synthetic_batch(variant, 1, device=torch.device("cpu"), seed=0)

    def __len__(self) -> int:
        return _IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._single.images[0], self._single.labels[0]


def search_lightning(bench: Bench, mode: str) -> int:
    """Run Lightning's batch size finder, with its defaults."""
    import lightning.pytorch as pl  # noqa: PLC0415 - one tool a process
    from lightning.pytorch.tuner import Tuner  # noqa: PLC0415 - as above

    trainer = pl.Trainer(
        accelerator="gpu" if bench.device.type == "cuda" else "cpu",
        devices=1,
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = lightning_module(bench)
    found = int(Tuner(trainer).scale_batch_size(module, mode=mode) or 0)
    bench.log("answer", batch=found)
    module.is_searched = False
    trainer.fit(module)
    return found


def search_autobatch(bench: Bench) -> int:
    """Run Ultralytics' method, re-created; on the CPU, which it refuses, with resident memory."""
    model = build_model(bench.variant).to(bench.device)
    free = bench.memory.total_bytes - bench.memory.held()
    peaks: dict[int, int] = {}
    for size in _AUTOBATCH_SIZES:
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        bench.log("try", batch=size, held_bytes=bench.memory.left())
        found: list[int] = []
        # AutoBatch ignores a size that raises any error, and tries the next one.
        with suppress(Exception), bench.memory.peak(found):
            images = torch.zeros(size, 3, *_sides(bench.variant), device=bench.device)
            model(images).sum().backward()
        model.zero_grad(set_to_none=True)
        peaks |= dict.fromkeys([size], found[0]) if found else {}
        print(f"{size:>6} images: {peaks.get(size, 0) / 2**20:.0f} MiB")
    answer = autobatch_answer(peaks, free)
    bench.log("answer", batch=answer)
    print(f"AutoBatch's method: batch {answer} for {_AUTOBATCH_SHARE:.0%} of the free memory")
    del model
    gc.collect()
    train(bench, answer, is_trial=False)
    return answer


def autobatch_answer(peaks: dict[int, int], free_bytes: int) -> int:
    """Return the batch at which the line through the peaks reaches 60 % of the free memory.

    Args:
        peaks: Peak bytes by batch, for those of 1, 2, 4, 8, 16 that ran.
        free_bytes: Free memory before them, in bytes.
    """
    if len(peaks) < 2:  # noqa: PLR2004 - a line takes two points
        return _AUTOBATCH_DEFAULT
    slope, fixed = np.polyfit(list(peaks), list(peaks.values()), deg=1)
    answer = int((free_bytes * _AUTOBATCH_SHARE - fixed) / slope)
    failed = [size for size in _AUTOBATCH_SIZES if size not in peaks]
    if failed and answer >= failed[0]:
        answer = _AUTOBATCH_SIZES[max(_AUTOBATCH_SIZES.index(failed[0]) - 1, 0)]
    return answer if 1 <= answer <= _AUTOBATCH_LARGEST else _AUTOBATCH_DEFAULT


def _sides(variant: Variant) -> tuple[int, int]:
    return variant.size.height, variant.size.width


SEARCHES: dict[str, Callable[[Bench], int]] = {
    "lightning-power": lambda bench: search_lightning(bench, "power"),
    "lightning-binsearch": lambda bench: search_lightning(bench, "binsearch"),
    "accelerate": search_accelerate,
    "autobatch": search_autobatch,
}


def open_bench(given: argparse.Namespace, log: Log) -> Bench:
    """Import the tool's libraries, then set the limit, so that libraries do not count."""
    if given.tool == "accelerate":
        import accelerate.utils  # noqa: F401, PLC0415 - before the limit
    elif given.tool.startswith("lightning"):
        import lightning.pytorch  # noqa: F401, PLC0415 - before the limit
    opened = open_device(
        DeviceRequest(device=given.device, memory_limit_bytes=parse_bytes(given.memory_limit))
    )
    is_cuda = opened.info.kind == "cuda"
    device = torch.device("cuda" if is_cuda else "cpu")
    total = opened.info.capacity_bytes
    if is_cuda:  # bounds reserved memory only; bsprobe also subtracts memory outside it
        torch.cuda.set_per_process_memory_fraction(total / opened.info.total_bytes, device)
    memory = Memory(device, None if is_cuda else opened, total)  # type: ignore[arg-type] # the CPU's
    variant = Variant(model=given.model, resolution=parse_resolution(given.resolution))
    return Bench(variant=variant, device=device, memory=memory, log=log)


def main() -> None:
    """Run one search and log how it ended."""
    parser = argparse.ArgumentParser(description="One search of one tool.")
    parser.add_argument("tool", choices=list(SEARCHES))
    parser.add_argument("events", type=Path)
    for option in ("--device", "--memory-limit", "--model", "--resolution"):
        parser.add_argument(option, required=True)
    given = parser.parse_args()
    log = Log(given.events)
    bench = open_bench(given, log)
    log("ready")
    try:
        SEARCHES[given.tool](bench)
    except Exception as error:
        log("error", type=type(error).__name__, message=str(error).splitlines()[0])
        raise
    log("trained")


if __name__ == "__main__":
    main()
