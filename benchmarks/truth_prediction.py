"""Predictions for recordings: as trials on the simulated card, and request by request."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from benchmarks.evaluated import EvaluatedTracer, with_evaluation, with_validation
from benchmarks.truth_records import Machine, TruthTrial
from benchmarks.validation.comparison import Comparison, compare
from benchmarks.validation.history import load_history
from benchmarks.validation.requests import recorded_requests
from bsprobe.analysis.search import Probe, Process, find_boundary
from bsprobe.devices.failing import describe_failure
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import Gpu, custom_gpu, find_gpu
from bsprobe.records.runs import Boundary, Run
from bsprobe.records.trials import Measurement, TrialSpec
from bsprobe.records.variants import Variant
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.cuda.libraries import multiprocessors_of
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.explain.requests import predicted_requests
from bsprobe.simulate.playback import Playback, cublas_workspace_bytes
from bsprobe.simulate.timeline import Section
from bsprobe.simulate.versions import Change, has, parsed


def gpu_of(machine: Machine) -> Gpu:
    """Return the catalogue's card of the machine, as `--gpu NAME` predicts it.

    A card that the catalogue lacks becomes a custom card, with an estimated memory outside the
    allocator. A fake GPU is predicted as the card in its name, without the word FAKE.
    """
    device = machine.device
    try:
        return find_gpu(re.sub(r"\bfake\b", "", device.name, flags=re.IGNORECASE))
    except UsageError:
        capability = device.compute_capability
        assert capability is not None  # noqa: S101 - every CUDA device has one
        return custom_gpu(device.total_bytes, capability)


def predicted_measurement(trial: TruthTrial, device: SimulatedDevice) -> Measurement:
    """Return the predicted measurement of a trial.

    Raises:
        SimulatedOutOfMemoryError: The trial is predicted not to fit.
    """
    with _allocator_settings(trial.allocator_settings):
        return with_evaluation(
            device.run_trial(with_validation(trial.spec), lambda _: None), trial.spec
        )


def predicted_boundary(run: Run, variant: Variant, device: SimulatedDevice) -> Boundary:
    """Predict the boundary of one variant of a recorded run, with the ordinary search.

    Args:
        run: The recorded run.
        variant: The variant of the boundary.
        device: The simulated card.
    """
    settings = run.settings

    def measure(batch: int, process: Process) -> Probe:
        del process  # every trial starts on an empty simulated card
        spec = TrialSpec(
            variant=variant,
            batch_size=batch,
            warmup_steps=settings.warmup_steps,
            measured_steps=settings.measured_steps,
        )
        try:
            measured = device.run_trial(spec, lambda _: None)
        except (MemoryError, RuntimeError, ValueError) as error:
            outcome, failure = describe_failure(error, "simulation", DeviceKind.SIMULATED)
            return Probe(outcome=outcome, fresh=True, detail=failure.message)
        has_retried = measured.allocator_retries > 0
        return Probe(
            outcome=Outcome.FITS_WITH_RETRIES if has_retried else Outcome.FITS,
            peak_bytes=measured.peak_bytes,
            fresh=True,
        )

    with _allocator_settings(run.environment.cuda_alloc_conf or ""):
        return find_boundary(
            measure, capacity_bytes=device.info.capacity_bytes, max_batch=settings.max_batch
        )


def compared(path: Path, trial: TruthTrial, machine: Machine) -> Comparison:
    """Compare the requests of a recorded trial with the predicted ones.

    Args:
        path: The file of the trial, with its history.
        trial: The trial.
        machine: The machine that recorded it.
    """
    history = load_history(path)
    spec = trial.spec
    tracer = EvaluatedTracer(spec.variant, with_validation(spec).validation)
    timeline = tracer.timeline(spec.batch_size, spec.accumulation_steps)
    stretches = sections_of(trial, timeline.settling_steps)
    recorded = recorded_requests(
        history, stretches, [trial.places[place] for place in trial.place_of]
    )
    with Workspaces(capability_of(machine)) as workspaces:

        def playback(allocator: CachingAllocator) -> Playback:
            return Playback(
                timeline,
                spec.batch_size,
                allocator=allocator,
                workspaces=workspaces,
                benchmark=spec.variant.cudnn_benchmark,
                cublas_bytes=cublas_workspace_bytes(capability_of(machine)),
                multiprocessors=multiprocessors_of(gpu_of(machine)),
                keeps_cublas=not has(parsed(trial.torch), Change.CUBLAS_WORKSPACE_FREED),
            )

        sections = [section for _, section in stretches if section is not None]
        predicted = predicted_requests(timeline, spec.batch_size, sections, playback)
    return compare(predicted, recorded)


def sections_of(
    trial: TruthTrial, settling_steps: int = 0
) -> tuple[tuple[int, Section | None], ...]:
    """Return the start of each timeline section in a trial's history, in events.

    A GradScaler may skip updates in the first steps. Those steps are not compared, because no
    section is like them; the first step that updates counts as the first step.

    Args:
        trial: The recorded trial.
        settling_steps: Steps of the timeline between its first step and the steady one.
    """
    skipped = 0
    if trial.measurement is not None:
        skipped = trial.measurement.steps - trial.measurement.updates_applied
    return tuple(_sections(trial.marks, skipped, settling_steps))


def capability_of(machine: Machine) -> tuple[int, int]:
    """Return the compute capability of a machine's card."""
    major, _, minor = (machine.device.compute_capability or "").partition(".")
    return int(major), int(minor)


def _sections(
    marks: Sequence[tuple[int, str]], skipped: int, settling_steps: int
) -> Iterator[tuple[int, Section | None]]:
    for start, phase in marks:
        step = re.match(r"step (\d+)", phase)
        if step is None:
            named = {
                "building": Section.SETUP,
                "evaluation": Section.VALIDATION,
                "validation": Section.VALIDATION,
            }
            if phase in named:
                yield start, named[phase]
        elif (number := int(step[1]) - skipped) < 1:
            yield start, None
        elif number == 1:
            yield start, Section.FIRST_STEP
        elif number > 1 + settling_steps:
            yield start, Section.LATER_STEP
        elif number == 2:  # noqa: PLR2004 - the first settling step; all are one section
            yield start, Section.SETTLING_STEPS


@contextmanager
def _allocator_settings(settings: str) -> Iterator[None]:
    """Set both names of PyTorch's variable, because the simulated card reads it as PyTorch does."""
    both = {"PYTORCH_CUDA_ALLOC_CONF": settings, "PYTORCH_ALLOC_CONF": settings}
    with mock.patch.dict(os.environ, both):
        yield
