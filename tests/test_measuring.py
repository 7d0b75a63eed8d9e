"""An explanation beside a GPU that is invented: its trials are figures, its record is fabricated."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, cast

import pytest
from explanations import GPU, REPORT
from recorded_steps import OUTSIDE, recorded

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.errors import DeviceError, UsageError
from bsprobe.explaining import Explaining
from bsprobe.explanation import RECORDED_SNAPSHOT, SNAPSHOT, ExplanationReport, by_kind
from bsprobe.explanationfile import load_explanation, save_explanation
from bsprobe.failures import Certainty, Outcome
from bsprobe.gpus import custom_gpu
from bsprobe.messages import Ready, Record, Recorded
from bsprobe.records import (
    Boundary,
    DeviceRequest,
    Failure,
    Peak,
    Purpose,
    Source,
    StopReason,
    Trial,
    TrialSpec,
)
from bsprobe.report.explain_write import write_explanation
from bsprobe.runner import TrialRunner
from bsprobe.simulate.trace import StepTracer
from bsprobe.units import GIB, MIB, Resolution
from bsprobe.variants import Variant

VARIANT = Variant(model="deeplabv2-mini", resolution=Resolution(height=64, width=64))
LARGEST = 3
CAPACITY = 700 * MIB
DEVICE = replace(GPU, capacity_bytes=CAPACITY, total_bytes=CAPACITY)
HERE = DeviceRequest()


class Silent:
    def on_stage(self, stage: str) -> None: ...
    def on_phase(self, phase: str) -> None: ...


class InventedGpu:
    """Runs every batch up to three; what it records is what the simulation does."""

    def __init__(self, capability: str = "8.6", bug: str = "") -> None:
        self.ready = Ready(
            device=replace(DEVICE, compute_capability=capability),
            torch="2.11.0",
            cuda="13.0",
            cudnn="91500",
            cpu_threads=1,
        )
        self.tried: list[int] = []
        self._bug = bug

    def run(self, spec: TrialSpec, *, purpose: Purpose, **_: object) -> Trial:
        self.tried.append(spec.batch_size)
        fits = spec.batch_size <= LARGEST and not self._bug
        trial = self._recorded(spec)[1]
        return Trial(
            spec=spec,
            outcome=Outcome.FITS
            if fits
            else Outcome.FAILED
            if self._bug
            else Outcome.OUT_OF_MEMORY,
            source=Source.MEASURED,
            purpose=purpose,
            fresh_process=True,
            measurement=trial.measurement if fits else None,
            failure=None if fits else self._failure(),
            started_at="2026-01-02T03:04:05+00:00",
            wall_seconds=0.1,
        )
