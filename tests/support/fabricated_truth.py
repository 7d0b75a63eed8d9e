"""A FABRICATED folder in the layout of `record_truth.py`: it is simulated, not run on a GPU.

It is written only to a test's temporary folder; tests/data/truth contains only recordings of GPUs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.truth_records import (
    SCHEMA_VERSION,
    Machine,
    TruthTrial,
    boundary_folder,
    save_machine,
    save_trial,
    trial_path,
)
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import SCHEMA_VERSION as RUN_VERSION
from bsprobe.records.runs import Boundary, DeviceRequest, Run, StopReason, VariantResult
from bsprobe.records.trials import Peak, TrialSpec
from bsprobe.records.units import MIB
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.explain.requests import Request, predicted_requests
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Section
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.storage.runfile import save_run
from tests.support.builders import DEVICE, ENVIRONMENT, broke, ran, settings
from tests.support.fabricated import fabricated
from tests.support.tiny_networks import VARIANT

CARD = find_gpu(DEVICE.name)
LIMIT = CARD.outside_allocator_bytes + 24 * MIB
PHASES = {
    Section.SETUP: "building",
    Section.FIRST_STEP: "step 1",
    Section.LATER_STEP: "step 2",
}
HERE = replace(
    ENVIRONMENT,
    torch=torch.__version__,
    cudnn=str(torch.backends.cudnn.version()) if Workspaces((8, 9)).cudnn_version else None,
)
"""The installed versions, because requests are compared only if the versions are equal."""
ELSEWHERE = replace(ENVIRONMENT, torch="2.5.1+cu124", cudnn="90100")
"""An environment with a PyTorch older than bsprobe's minimum."""
MACHINE = Machine(
    schema_version=SCHEMA_VERSION,
    device=DEVICE,
    environment=HERE,
    outside_at_rest_bytes=300 * MIB,
    properties=(("name", DEVICE.name),),
    cudnn_properties="fabricated",
)
FAKE_MACHINE = replace(MACHINE, device=replace(DEVICE, name=f"FAKE {DEVICE.name}"))
SPEC = TrialSpec(variant=VARIANT, batch_size=2, warmup_steps=1, measured_steps=1)


def requests_here(spec: TrialSpec = SPEC) -> tuple[Request, ...]:
    """Return the simulated requests, which `compared` predicts."""
    timeline = StepTracer(spec.variant).timeline(spec.batch_size)
    workspaces = Workspaces((8, 9))
    return predicted_requests(
        timeline,
        spec.batch_size,
        tuple(PHASES),
        lambda ledger: Playback(timeline, spec.batch_size, allocator=ledger, workspaces=workspaces),
    ).requests


def truth_trial(spec: TrialSpec = SPEC, *, scale: float = 1.0) -> TruthTrial:
    """Return a trial whose peaks are the predicted ones, multiplied by `scale`."""
    found = SimulatedDevice(CARD, None).run_trial(spec, lambda _: None)

    def scaled(peak: Peak) -> Peak:
        return Peak(
            allocated_bytes=round(peak.allocated_bytes * scale),
            reserved_bytes=round((peak.reserved_bytes or 0) * scale),
        )

    return TruthTrial(
        schema_version=SCHEMA_VERSION,
        name=f"fabricated-{spec.variant.norm}-b{spec.batch_size}",
        spec=spec,
        outcome=Outcome.FITS,
        measurement=replace(
            found, first_step=scaled(found.first_step), steady=scaled(found.steady)
        ),
        failure=None,
        started_at="2025-01-31T12:00:00+00:00",
        wall_seconds=1.0,
        torch="2.15.0",
        allocator_settings="",
    )


def write_trial(folder: Path, trial: TruthTrial, requests: Sequence[Request] | None) -> Path:
    """Write a trial, with a history of these requests.

    Args:
        folder: The folder of the GPU.
        trial: The trial.
        requests: The requests of its history; None for no history.
    """
    path = trial_path(folder, trial.name)
    if requests is None:
        save_trial(path, trial, None)
        return path
    history, starts = fabricated(requests)
    marks = tuple((start, PHASES[section]) for start, section in starts if section is not None)
    marked = replace(trial, marks=marks, places=("somewhere",), place_of=(0,) * len(requests))
    save_trial(path, marked, history)
    return path


def write_boundary(folder: Path, largest: int) -> None:
    """Write a run that proved a boundary under `LIMIT`."""
    run = Run(
        schema_version=RUN_VERSION,
        environment=replace(ENVIRONMENT, cuda_alloc_conf=None),
        device=replace(DEVICE, limit_bytes=LIMIT, capacity_bytes=LIMIT),
        settings=replace(
            settings(VARIANT, max_batch=4096), device=DeviceRequest(memory_limit_bytes=LIMIT)
        ),
        trials=(ran(largest, variant=VARIANT), broke(largest + 1, variant=VARIANT)),
        results=(
            VariantResult(
                variant=VARIANT,
                boundary=Boundary(
                    stop=StopReason.PROVEN, largest=largest, first_failure=largest + 1
                ),
            ),
        ),
    )
    target = boundary_folder(folder, "fabricated")
    target.mkdir(parents=True)
    save_run(run, target)


def write_machine(folder: Path, machine: Machine = MACHINE) -> None:
    """Write the facts about the machine."""
    save_machine(folder, machine)
