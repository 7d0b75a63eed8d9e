"""Steps of a trial on a real device: build, warm up, measure, validate."""

import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from bsprobe.analysis.growth import MOST_STEPS, is_growing, noise_bytes
from bsprobe.devices.base import ReportPhase
from bsprobe.devices.failing import validated
from bsprobe.devices.settling import until_level, until_settled
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.trials import (
    VALIDATION_PHASE,
    Ddp,
    Measurement,
    Peak,
    TrialSpec,
    Validated,
    Validation,
)
from bsprobe.records.variants import CudnnBenchmark, Variant
from bsprobe.training.batches import batches, images_per_second, validation_images
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task, build_task, evaluation_pass, facts_of, training_step

REQUIRED_UPDATES = 2
"""Least number of updates in a trial: the first update creates the optimizer's state, and the peak
with that state is reached in the second."""
_MOST_SKIPPED = 20
"""Maximum number of skipped updates. A GradScaler that starts at 65536 has then reached 1/16, so
the gradients overflow without scaling."""


class StepClock(Protocol):
    """Measures intervals of work on the device."""

    def start(self) -> None:
        """Start an interval."""

    def stop(self) -> None:
        """Stop the interval."""

    def seconds(self) -> tuple[float, ...]:
        """Seconds of each interval; waits for the device."""


class Meter(Protocol):
    """Measures the device's memory."""

    def reset_peak(self) -> None:
        """Reset the peak to the memory that is held now."""

    def peak(self) -> Peak:
        """Peak since the last reset; waits for the device."""

    def retries(self) -> int:
        """Number of times in this trial that the allocator flushed its cache to allocate."""

    def held(self) -> int:
        """Bytes of tensors that are held now."""

    def completed(self, measured: Measurement) -> Measurement:
        """Return the measurement of the steps so far with the device's own facts."""

    def lift_limit(self) -> None:
        """Remove the memory limit, so that a failure can be described."""


class TooFewUpdatesError(RuntimeError):
    """The GradScaler skipped too many updates to measure a training step."""


def run_steps(
    spec: TrialSpec,
    *,
    device: torch.device,
    meter: Meter,
    new_clock: Callable[[], StepClock],
    report: ReportPhase,
) -> Measurement:
    """Run a trial's steps and measure them.

    Args:
        spec: The trial.
        device: The device that runs the steps.
        meter: Measures the device's memory.
        new_clock: Makes a clock for the measured steps.
        report: Called when a phase begins.

    Returns:
        The measurement; a validation that fails is part of it.

    Raises:
        TooFewUpdatesError: The GradScaler skipped too many updates.
        Exception: Any exception of the network.
    """
    report("building")
    torch.backends.cudnn.benchmark = spec.variant.cudnn_benchmark is CudnnBenchmark.ON
    task = build_task(spec.variant, device)
    if spec.processes > 1:
        replicate(task, spec.ddp)
    stream = batches(spec, device)
    steps = _Steps(task, stream, spec.accumulation_steps, meter, report)
    meter.reset_peak()
    steps.run()
    first = meter.peak()
    meter.reset_peak()
    while steps.count < spec.warmup_steps or task.updates_applied == 0:
        steps.run()
    clock = new_clock()
    for _ in range(spec.measured_steps):
        steps.run(clock)
    seconds = clock.seconds()
    _settle(spec, steps, task, meter)
    steady = meter.peak()
    images = spec.batch_size * spec.accumulation_steps
    measured = Measurement(
        model=facts_of(task, spec.variant),
        first_step=first,
        steady=steady,
        updates_applied=task.updates_applied,
        steps=steps.count,
        allocated_after_steps=tuple(steps.ends),
        step_seconds=seconds,
        images_per_second=images / statistics.median(seconds),
        loader_images_per_second=None if spec.data is None else images_per_second(stream),
    )
    # Before the validation, whose kernels and retries are not the training's.
    measured = meter.completed(measured)
    return replace(measured, validation=_validated(spec, task, meter, report))


def _settle(spec: TrialSpec, steps: "_Steps", task: Task, meter: Meter) -> None:
    """Run the steps that a trial needs beyond those that were asked for."""
    device = task.device
    while task.updates_applied < REQUIRED_UPDATES:
        steps.run()
    until_settled(steps.run, lambda: _most(spec, meter.retries(), device), ran=steps.count)
    until_level(steps.run_collected, lambda: _most(spec, steps.may_grow(), device) > 0)


def _most(spec: TrialSpec, number: int, device: torch.device) -> int:
    """Maximum of a number over all ranks, which must run the same number of steps."""
    if spec.processes == 1:
        return number
    most = torch.tensor(number, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most.item())


def rehearse(spec: TrialSpec, device: torch.device) -> None:
    """Run one step of a trial, so that CUDA loads its kernels and libraries.

    cuDNN's benchmark mode stays off: its choices would be kept for a trial of the same sizes.

    Raises:
        Exception: Any exception of the network at this batch size.
    """
    torch.backends.cudnn.benchmark = False
    task = build_task(spec.variant, device)
    if spec.processes > 1:
        replicate(task, spec.ddp)
    training_step(task, [next(batches(spec, device))])


def replicate(task: Task, ddp: Ddp) -> None:
    """Wrap a task's network in DistributedDataParallel, with the default process group."""
    index = None if task.device.type == "cpu" else [task.device]
    task.replica = DistributedDataParallel(
        task.model,
        device_ids=index,
        find_unused_parameters=ddp is Ddp.FIND_UNUSED_PARAMETERS,
        static_graph=ddp is Ddp.STATIC_GRAPH,
    )
    task.ddp = ddp


class _Steps:
    """Runs and counts steps, and raises if too many updates are skipped."""

    def __init__(
        self,
        task: Task,
        stream: Iterator[Batch | OwnBatch],
        accumulation_steps: int,
        meter: Meter,
        report: ReportPhase,
    ) -> None:
        self._task = task
        self._stream = stream
        self._accumulation_steps = accumulation_steps
        self._meter = meter
        self._report = report
        self.count = 0
        self.ends: list[int] = []
        """Bytes of tensors at the end of each step."""

    def run(self, clock: StepClock | None = None) -> None:
        """Run one step; `clock` measures it without the time to load its images."""
        self.count += 1
        self._report(f"step {self.count}")
        micro_batches = list(itertools.islice(self._stream, self._accumulation_steps))
        if clock is not None:
            clock.start()
        training_step(self._task, micro_batches)
        if clock is not None:
            clock.stop()
        self.ends.append(self._meter.held())
        skipped = self.count - self._task.updates_applied
        if skipped > _MOST_SKIPPED:
            raise TooFewUpdatesError(
                f"the GradScaler skipped {skipped} of {self.count} updates: gradients overflow"
            )

    def run_collected(self) -> None:
        """Run one step after all cycles of references are freed, which are not growth."""
        gc.collect()
        self.run()

    def may_grow(self) -> bool:
        """True if memory has grown since the first update, and more steps would tell."""
        ends = self.ends[self.count - self._task.updates_applied :]
        noise = noise_bytes(DeviceKind(self._task.device.type))
        return len(ends) < MOST_STEPS and is_growing(ends, noise)


def _validated(spec: TrialSpec, task: Task, meter: Meter, report: ReportPhase) -> Validated | None:
    """Validate after the training steps; None if the trial has no validation."""
    if spec.validation is None:
        return None
    return validated(
        partial(_validate, spec.variant, spec.validation, task, meter, report),
        DeviceKind(task.device.type),
        retries=meter.retries,
        lift_limit=meter.lift_limit,
    )


def _validate(
    variant: Variant, asked: Validation, task: Task, meter: Meter, report: ReportPhase
) -> Peak:
    report(VALIDATION_PHASE)
    meter.reset_peak()
    images = validation_images(variant, asked, task.device)
    evaluation_pass(task, images, asked.resolution.sides)
    return meter.peak()
