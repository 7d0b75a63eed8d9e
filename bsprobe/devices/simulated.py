"""A simulated GPU: a trial is traced and played on a simulated allocator."""

import os
import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bsprobe.devices.base import ReportPhase
from bsprobe.devices.failing import validated
from bsprobe.devices.played_steps import PlayedSteps
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.explanations import Explanation, RecordedTrial
from bsprobe.records.gpus import ESTIMATE, Gpu, check_limit, nccl_bytes
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.trials import (
    VALIDATION_PHASE,
    Ddp,
    Measurement,
    Peak,
    Source,
    TrialSpec,
    Validated,
    Validation,
)
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Variant
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import MemoryDriver, SimulatedDriver
from bsprobe.simulate.allocator.expandable import ExpandableAllocator
from bsprobe.simulate.cuda.libraries import multiprocessors_of, playback_on, workspaces_on
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.explain.attribution import explain_recorded
from bsprobe.simulate.explain.predicted import Card, explain
from bsprobe.simulate.explain.predicted import snapshot as snapshot_of
from bsprobe.simulate.playback import Memory, Playback
from bsprobe.simulate.timeline import Section, Timeline
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.storage.files import write_atomically

_FIRST_TF32: Final = (8, 0)


class Tracers:
    """A cache for the traced step of the last variant, which is the same for all cards.

    Args:
        tracer: The class of the tracers.
    """

    def __init__(self, tracer: type[StepTracer] = StepTracer) -> None:
        self._tracer = tracer
        self._known: dict[tuple[Variant, Validation | None, int, Ddp], StepTracer] = {}

    def find(self, spec: TrialSpec) -> StepTracer:
        """Return the tracer of a trial's variant; builds it unless it is the last one used."""
        subject = (spec.variant, spec.validation, spec.processes, spec.ddp)
        if subject not in self._known:
            self._known.clear()  # a traced step is large, and variants are used one by one
            variant, validation, processes, ddp = subject
            self._known[subject] = self._tracer(variant, validation, processes=processes, ddp=ddp)
        return self._known[subject]


class SimulatedDevice:
    """Predicts trials on one GPU. Each trial begins with an empty card.

    Args:
        gpu: The card.
        limit_bytes: The memory limit; None for the whole card.
        is_assumed: True if the user named no GPU and the machine has none.
        tracers: Traced steps to share between cards; None for a new cache.
        workspaces: Workspaces of the card's compute capability to share between cards; None to
            load them.
    """

    def __init__(
        self,
        gpu: Gpu,
        limit_bytes: int | None,
        *,
        is_assumed: bool = False,
        tracers: Tracers | None = None,
        workspaces: Workspaces | None = None,
    ) -> None:
        self._gpu = gpu
        self._capacity = gpu.total_bytes if limit_bytes is None else limit_bytes
        check_limit(gpu, self._capacity)
        self._capability = gpu.capability
        self._workspaces = workspaces or workspaces_on(self._capability)
        # The caller saves shared workspaces once for all trials.
        self._keeps_answers = workspaces is None
        self._tracers = tracers or Tracers()
        self._info = self._describe(limit_bytes, is_assumed=is_assumed)
        self._budget: int | None = None

    @property
    def info(self) -> DeviceInfo:
        """The card and its capacity."""
        return self._info

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that the allocator could reserve in the last trial; None without a limit."""
        return self._budget

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        """Predict a trial.

        Raises:
            SimulatedOutOfMemoryError: The card is full.
            Exception: Any other exception of the network or the simulation.
        """
        report("tracing")
        outside = self._outside_bytes(spec)
        if self._info.limit_bytes is not None:
            self._budget = max(0, self._capacity - outside)
        tracer = self._tracers.find(spec)
        timeline = tracer.timeline(spec.batch_size, spec.accumulation_steps)
        allocator = self._empty_card(outside)
        playback = self._playback(spec.variant, timeline, spec.batch_size, allocator)
        steps = spec.warmup_steps + spec.measured_steps
        report("building")
        playback.play(Section.SETUP)
        allocator.reset_peaks()
        played = PlayedSteps(timeline, playback, allocator, report)
        played.play_first()
        first = _taken_peak(allocator)
        played.play_others(steps)
        steady = _taken_peak(allocator)
        statistics = allocator.statistics
        measured = Measurement(
            model=tracer.facts,
            first_step=first,
            steady=steady,
            outside_allocator_bytes=outside,
            other_processes_bytes=0,
            allocator_retries=statistics.num_alloc_retries,
            allocator_ooms=statistics.num_ooms,
            updates_applied=len(played.ends),
            steps=len(played.ends),
            allocated_after_steps=played.ends,
        )
        if spec.validation is not None:
            measured = replace(measured, validation=_validated(playback, allocator, tracer, report))
        self._keep_answers()
        return measured

    def explain(self, spec: TrialSpec, report: ReportPhase, snapshot: Path | None) -> Explanation:
        """Attribute the predicted memory of a trial, and write a snapshot for PyTorch's viewer.

        Args:
            spec: The trial, without accumulation.
            report: Called when a phase begins.
            snapshot: Path of the snapshot file, or None for none.

        Raises:
            Exception: Any exception of the network at this batch size.
        """
        report("tracing")
        tracer = self._tracers.find(spec)
        timeline = tracer.growing_timeline(spec.batch_size)
        card = Card(
            capacity_bytes=self._capacity,
            outside_allocator_bytes=self._outside_bytes(spec),
            total_bytes=self._gpu.total_bytes,
            new_allocator=_new_allocator,
            new_playback=partial(self._playback, spec.variant),
            fits=self._fits(spec),
        )
        report("explaining")
        explanation = replace(explain(timeline, spec, card), model=tracer.facts)
        if snapshot is not None:
            report("writing the snapshot")
            write_atomically(snapshot, snapshot_of(timeline, spec.batch_size, card))
        self._keep_answers()
        return explanation

    def _fits(self, spec: TrialSpec) -> bool:
        try:
            self.run_trial(spec, lambda _: None)
        except SimulatedOutOfMemoryError:
            return False
        return True

    def attribute(self, trial: RecordedTrial, report: ReportPhase, snapshot: Path) -> Explanation:
        """Attribute the memory of a trial that was recorded on a real GPU.

        Args:
            trial: The trial, without accumulation.
            report: Called when a phase begins.
            snapshot: Path of the recorded snapshot. It is unpickled, so it must come from bsprobe.

        Raises:
            UnknownEventError: The recording has unknown events, or lacks some.
        """
        report("tracing")
        variant, batch = trial.spec.variant, trial.spec.batch_size
        tracer = self._tracers.find(trial.spec)
        timeline = tracer.timeline(batch)
        report("attributing")
        found = explain_recorded(
            pickle.loads(snapshot.read_bytes()),  # noqa: S301 - written by another worker
            trial,
            timeline,
            partial(self._playback, variant, timeline, batch),
        )
        self._keep_answers()
        return found

    def lift_limit(self) -> None:
        """Do nothing: the limit applies to the simulated card only."""

    def is_clean(self) -> bool:
        """Return True: each trial begins with an empty card."""
        return True

    def _keep_answers(self) -> None:
        if self._keeps_answers:
            self._workspaces.save()

    def _outside_bytes(self, spec: TrialSpec) -> int:
        """Bytes of the card that one process holds outside PyTorch's allocator."""
        return self._gpu.outside_allocator_bytes + nccl_bytes(spec.processes)

    def _empty_card(self, outside_bytes: int) -> CachingAllocator:
        driver = SimulatedDriver(
            available_bytes=max(0, self._capacity - outside_bytes),
            total_bytes=self._gpu.total_bytes,
        )
        return _new_allocator(driver)

    def _playback(
        self, variant: Variant, timeline: Timeline, batch: int, memory: Memory
    ) -> Playback:
        return playback_on(
            self._capability,
            timeline,
            batch,
            allocator=memory,
            workspaces=self._workspaces,
            multiprocessors=multiprocessors_of(self._gpu),
            benchmark=variant.cudnn_benchmark,
        )

    def _describe(self, limit_bytes: int | None, *, is_assumed: bool) -> DeviceInfo:
        gpu = self._gpu
        estimated = [
            what
            for what, source in (
                ("total memory", gpu.total_source),
                ("memory outside the allocator", gpu.outside_source),
            )
            if source == ESTIMATE
        ]
        outside = gpu.outside_allocator_bytes
        left = format_bytes(max(0, self._capacity - outside))
        taken = f"{format_bytes(outside)} are used by CUDA and its libraries"
        notes = [f"PyTorch's allocator gets {left}; {taken}."]
        notes += gpu.notes
        if estimated:
            notes.append(f"Estimated for this card: {' and '.join(estimated)}.")
        return DeviceInfo(
            kind=DeviceKind.SIMULATED,
            name=gpu.name,
            source=Source.PREDICTED,
            total_bytes=gpu.total_bytes,
            capacity_bytes=self._capacity,
            limit_bytes=limit_bytes,
            is_assumed=is_assumed,
            compute_capability=gpu.compute_capability,
            tf32_convolutions=self._capability >= _FIRST_TF32,
            tf32_matmuls=False,
            notes=(*notes, *self._workspaces.notes),
        )


def _validated(
    playback: Playback, allocator: CachingAllocator, tracer: StepTracer, report: ReportPhase
) -> Validated:
    """Play the validation after the training steps."""

    def work() -> Peak:
        report(VALIDATION_PHASE)
        if tracer.validation_error is not None:
            raise tracer.validation_error
        playback.play(Section.VALIDATION)
        return _taken_peak(allocator)

    return validated(
        work,
        DeviceKind.SIMULATED,
        retries=lambda: allocator.statistics.num_alloc_retries,
        lift_limit=lambda: None,
    )


def _taken_peak(allocator: CachingAllocator) -> Peak:
    """Return the peak since the last reset, and reset it."""
    statistics = allocator.statistics
    allocator.reset_peaks()
    return Peak(
        allocated_bytes=statistics.peak_allocated_bytes,
        reserved_bytes=statistics.peak_reserved_bytes,
    )


def _new_allocator(driver: MemoryDriver) -> CachingAllocator:
    return ExpandableAllocator(driver) if _wants_expandable() else CachingAllocator(driver)


def _wants_expandable() -> bool:
    """Return whether PyTorch's environment variables enable expandable segments."""
    settings = os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF", "")
    return re.search(r"expandable_segments\s*:\s*true", settings, re.IGNORECASE) is not None
