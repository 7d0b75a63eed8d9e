"""Prediction of the recordings that end with an evaluation pass, as trials did before version 0.3.

That pass ran over the training batch and resized its predictions to the size of the labels. Now a
trial validates images of their own.
"""

from dataclasses import replace

import torch

from bsprobe.devices.simulated import SimulatedDevice, Tracers
from bsprobe.records.gpus import Gpu
from bsprobe.records.trials import Measurement, TrialSpec, Validation
from bsprobe.simulate.trace.feeder import Feeder
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training.step import Batch


class EvaluatedTracer(StepTracer):
    """Traces steps and an evaluation pass over the training batch."""

    def images_for(self, _asked: Validation, feeder: Feeder) -> torch.Tensor:
        """Return the images of the last step."""
        assert isinstance(feeder.last, Batch)  # noqa: S101 - own batches were not evaluated
        return feeder.last.images


def with_validation(spec: TrialSpec) -> TrialSpec:
    """Return a recorded trial with its evaluation pass as a validation."""
    size = spec.evaluation_resolution
    if size is None:
        return spec
    asked = Validation(resolution=size, batch_size=spec.batch_size)
    return replace(spec, evaluation_resolution=None, validation=asked)


def recorded_device(gpu: Gpu, limit_bytes: int | None) -> SimulatedDevice:
    """Return the simulated card that predicts recorded trials.

    Args:
        gpu: The card.
        limit_bytes: The memory limit; None for the whole card.
    """
    return SimulatedDevice(gpu, limit_bytes, tracers=Tracers(EvaluatedTracer))


def with_evaluation(measured: Measurement, spec: TrialSpec) -> Measurement:
    """Return a predicted measurement with the peak of the pass where the recording has it.

    Args:
        measured: The prediction.
        spec: The recorded trial.
    """
    if spec.evaluation_resolution is None or measured.validation is None:
        return measured
    return replace(measured, validation=None, evaluation=measured.validation.peak)
