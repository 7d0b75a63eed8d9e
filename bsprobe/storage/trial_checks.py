"""Checks of trials and devices: nothing measured in a prediction, and nothing but what was asked.

The trials of a journal are checked as those of a run: their figures are printed all the same.
"""

import math
import re
import reprlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome, is_evidence
from bsprobe.records.runs import DeviceInfo, DeviceRequest, Settings
from bsprobe.records.trials import Failure, Measurement, Peak, Purpose, Source, Trial, TrialSpec

_SAME: Final = 1e-9
"""Rates that differ by a smaller share differ by rounding."""
_RANKS_DIFFER: Final = 2.0
"""Factor within which the ranks of a trial are equally fast: they wait for each other in every
step. Only the sum of their rates is recorded."""


def device_complaints(device: DeviceInfo) -> Iterator[str]:
    """Yield what is wrong with a device, each beginning with the field."""
    predicted = device.source is Source.PREDICTED
    if predicted is not (device.kind is DeviceKind.SIMULATED):
        yield f".source: {device.source}, but its kind is {device.kind}"
    if device.is_assumed and not predicted:
        yield f".is_assumed: true, but the device is {device.source}"
    if device.driver is not None and device.kind is not DeviceKind.CUDA:
        yield f".driver: a GPU's, but its kind is {device.kind}"
    if device.kind is DeviceKind.CPU and (device.tf32_convolutions or device.tf32_matmuls):
        yield ".tf32_convolutions: only a GPU has them"
    capability = device.compute_capability
    if (capability is None) is not (device.kind is DeviceKind.CPU):
        yield ".compute_capability: every GPU has one, and no CPU"
    elif capability is not None and not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", capability):
        yield ".compute_capability: not of the form 8.6"
    others = device.other_processes_bytes or 0
    whole = device.total_bytes - (others if device.kind is DeviceKind.CUDA else 0)
    capacity = whole if device.limit_bytes is None else device.limit_bytes
    if device.capacity_bytes != capacity:
        yield f".capacity_bytes: {device.capacity_bytes}, but limit or total give {capacity}"


def requested_complaints(device: DeviceInfo, request: DeviceRequest) -> Iterator[str]:
    """Yield how a device differs from the requested one, each beginning with the field.

    Args:
        device: The device of a run or journal.
        request: The device that its settings ask for.
    """
    predicted, card = device.source is Source.PREDICTED, request.gpu
    if card is not None and not predicted:
        yield f".source: {device.source}, but the settings name a card to predict for"
    if predicted and device.is_assumed is not (card is None):
        yield ".is_assumed: a card is assumed if the settings name none, and only then"
    named = (request.device or "").partition(":")[0] or None
    if card is None and named is not None and named != device.kind:
        yield f".kind: {device.kind}, but the settings ask for {named}"
    if named is None and device.kind is DeviceKind.CPU:
        yield ".kind: cpu, but the settings do not ask for the CPU"
    if card is not None:
        told = (device.name, device.total_bytes, device.compute_capability)
        if told != (card.name, card.total_bytes, card.compute_capability):
            yield ".name: it has another name, memory or capability than the card of the settings"
    asked = request.memory_limit_bytes
    if asked is not None and device.limit_bytes not in (asked, *request.rank_limits_bytes):
        yield f".limit_bytes: {device.limit_bytes}, but the limit of the settings is {asked}"
    has_no_limit = asked is None and not request.rank_limits_bytes
    if has_no_limit and device.limit_bytes is not None and device.kind is not DeviceKind.CPU:
        yield f".limit_bytes: {device.limit_bytes}, but the settings have no limit"


def trial_complaints(trial: Trial, settings: Settings, device: DeviceInfo) -> Iterator[str]:
    """Yield what is wrong with a trial, each beginning with the field.

    Args:
        trial: The trial.
        settings: The settings of its run.
        device: The device of its run.
    """
    if trial.source is not device.source:
        yield f".source: its source is {trial.source}, but the device's is {device.source}"
    if trial.spec.variant not in settings.variants:
        yield ".spec.variant: its variant is not in the settings"
        return
    yield from _spec_complaints(trial.spec, trial.purpose, settings, device)
    if trial.source is Source.PREDICTED:
        yield from _prediction_complaints(trial, device)
    else:
        yield from _origin_complaints(trial, settings)
    yield from _failure_complaints(trial.outcome, trial.failure, device)
    measured = trial.measurement
    if measured is not None:
        if trial.source is Source.MEASURED:
            yield from _measurement_complaints(trial, measured, device)
        yield from _result_complaints(trial, measured)
        if (found := measured.validation) is not None:
            yield from _failure_complaints(found.outcome, found.failure, device)
    yield from _budget_complaints(trial, settings.device, device)


def _spec_complaints(
    spec: TrialSpec, purpose: Purpose, settings: Settings, device: DeviceInfo
) -> Iterator[str]:
    """Fields that do not follow from the settings; `analysis.course` makes the trials of a run."""
    asked = replace(
        settings.trial(spec.variant, spec.batch_size, accumulation_steps=spec.accumulation_steps),
        evaluation_resolution=settings.evaluation_resolution,
    )
    if (
        device.source is Source.MEASURED
        and spec.variant.script is None
        and spec.measured_steps == 1
    ):
        asked = replace(asked, measured_steps=1)  # of a batch that is expected to use the headroom
    if purpose is Purpose.COMPARISON:
        asked = replace(asked, data=None)
    if purpose is Purpose.VALIDATION and spec.validation and settings.validation:
        of_this_batch = replace(settings.validation, batch_size=spec.validation.batch_size)
        asked = replace(asked, validation=of_this_batch)
    for field in (
        *("processes", "ddp", "warmup_steps", "measured_steps", "validation"),
        *("evaluation_resolution", "data", "seed"),
    ):
        if getattr(spec, field) != getattr(asked, field):
            yield f".spec.{field}: it does not follow from the settings"
    if spec.batch_size % settings.batch_multiple:
        yield f".spec.batch_size: {spec.batch_size} is no multiple of {settings.batch_multiple}"


def _prediction_complaints(trial: Trial, device: DeviceInfo) -> Iterator[str]:
    """Figures of a prediction that only a trial on a real device has."""
    if not trial.fresh_process:
        yield ".fresh_process: false, but every predicted trial has an empty card"
    for field in ("rank", "script"):
        if getattr(trial, field) is not None:
            yield f".{field}: only a measured trial has it"
    if trial.measurement is not None:
        yield from _predicted_complaints(trial.measurement, device)


def _predicted_complaints(measured: Measurement, device: DeviceInfo) -> Iterator[str]:
    for field in ("step_seconds", "images_per_second", "loader_images_per_second"):
        if getattr(measured, field) not in (None, ()):
            yield f".measurement.{field}: a prediction times nothing"
    if measured.other_processes_bytes:
        yield ".measurement.other_processes_bytes: a simulated card has none"
    if any(peak.reserved_bytes is None for peak in _peaks(measured)):
        yield ".measurement: the simulated allocator reserves memory, but a peak has none"
    if measured.updates_applied != measured.steps:
        yield ".measurement.updates_applied: a prediction skips no update"
    if measured.peak_bytes > device.capacity_bytes:
        yield f".measurement: a peak of {measured.peak_bytes} bytes, more than the card has"


def _measurement_complaints(
    trial: Trial, measured: Measurement, device: DeviceInfo
) -> Iterator[str]:
    if measured.model.assumptions:
        yield ".measurement.model.assumptions: only a prediction has them"
    if device.kind is DeviceKind.CPU:
        if any(peak.reserved_bytes is not None for peak in _peaks(measured)):
            yield ".measurement: a CPU has no allocator, but a peak has reserved bytes"
        if measured.allocator_retries or measured.allocator_ooms:
            yield ".measurement.allocator_retries: a CPU has no allocator"
    elif trial.script is None and any(each.reserved_bytes is None for each in _peaks(measured)):
        yield ".measurement: a GPU's allocator reserves memory, but a peak has none"
    if trial.script is None:
        yield from _step_complaints(trial.spec, measured)
    if (measured.loader_images_per_second is None) is not (trial.spec.data is None):
        yield ".measurement.loader_images_per_second: only trials with images have it"
    yield from _rate_complaints(trial, measured)


def _step_complaints(spec: TrialSpec, measured: Measurement) -> Iterator[str]:
    if len(measured.step_seconds) != spec.measured_steps:
        yield f".measurement.step_seconds: not {spec.measured_steps}, as the trial has"
    if measured.steps < spec.warmup_steps + spec.measured_steps:
        yield f".measurement.steps: {measured.steps}, fewer than the trial has"
    if measured.updates_applied < 1:
        yield ".measurement.updates_applied: none, but the weights were updated"


def _rate_complaints(trial: Trial, measured: Measurement) -> Iterator[str]:
    """Images per second that do not follow from the seconds of the steps."""
    seconds, rate = measured.step_seconds, measured.images_per_second
    place = ".measurement.images_per_second"
    if not seconds or rate is None:
        if seconds or rate is not None:
            yield f"{place}: there is one if steps were timed, and only then"
        return
    images = trial.spec.batch_size * trial.spec.accumulation_steps
    if trial.script is not None:
        expected = images * trial.script.ranks / statistics.mean(seconds)
    else:
        expected = images / statistics.median(seconds)
    if trial.script is None and trial.spec.processes > 1:
        all_ranks = expected * trial.spec.processes
        if not all_ranks / _RANKS_DIFFER <= rate <= all_ranks * _RANKS_DIFFER:
            yield f"{place}: {rate:g}, but the step times of the ranks give about {all_ranks:g}"
    elif not math.isclose(rate, expected, rel_tol=_SAME):
        yield f"{place}: {rate:g}, but the step times give {expected:g}"


def _origin_complaints(trial: Trial, settings: Settings) -> Iterator[str]:
    """Facts that a measured trial has by the kind of its workload."""
    if (trial.script is None) is not (trial.spec.variant.script is None):
        yield ".script: there are facts of a command if the variant is one, and only then"
    always_fresh = trial.script is not None or settings.processes > 1
    if always_fresh and not trial.fresh_process:
        yield ".fresh_process: false, but every such trial has a fresh process"
    if trial.rank is None and settings.processes > 1:
        yield f".rank: none, but {settings.processes} processes ran the trial"
    if trial.rank is not None and trial.rank >= max(settings.processes, 2):
        yield f".rank: {trial.rank}, but there are {settings.processes} processes"
    if trial.rank is not None and settings.processes == 1:
        yield f".rank: {trial.rank}, but one process ran the trial"


def _failure_complaints(
    outcome: Outcome, failure: Failure | None, device: DeviceInfo
) -> Iterator[str]:
    """Evidence of another kind of device."""
    if failure is None:
        return
    simulated = is_evidence(DeviceKind.SIMULATED, failure.evidence)
    is_memory = outcome is Outcome.OUT_OF_MEMORY
    predicted = device.source is Source.PREDICTED
    if (is_memory and predicted and not simulated) or (simulated and not predicted):
        evidence = reprlib.repr(failure.evidence)
        yield f".failure.evidence: {evidence} is none of a {device.kind} device"


def _budget_complaints(trial: Trial, request: DeviceRequest, device: DeviceInfo) -> Iterator[str]:
    budget, limit = trial.budget_bytes, device.limit_bytes
    if budget is None:
        return
    if limit is None or device.kind is DeviceKind.CPU or trial.script is not None:
        yield ".budget_bytes: there is none without a limited allocator"
    elif budget > max((limit, *request.rank_limits_bytes)):  # the device is the weakest rank's
        yield f".budget_bytes: {budget}, more than the limit of the device"


def _result_complaints(trial: Trial, measured: Measurement) -> Iterator[str]:
    """Numbers that contradict each other, measured or predicted."""
    retried = trial.outcome is Outcome.FITS_WITH_RETRIES
    if trial.script is None and retried is not (measured.allocator_retries > 0):
        yield f".outcome: {trial.outcome}, but {measured.allocator_retries} allocator retries"
    if measured.updates_applied > measured.steps:
        yield f".measurement.updates_applied: more than the {measured.steps} steps"
    if len(measured.allocated_after_steps) not in (0, measured.steps):
        yield f".measurement.allocated_after_steps: not {measured.steps}, one for each step"
    if any(peak.allocated_bytes > peak.held_bytes for peak in _peaks(measured)):
        yield ".measurement: a peak with more allocated than reserved bytes"
    found = measured.validation
    if (found is None) is not (trial.spec.validation is None):
        yield ".measurement.validation: there is one if the trial validates, and only then"
    if found is not None and found.fits is not (found.failure is None):
        yield ".measurement.validation: it must have either a peak or a failure"


def _peaks(measured: Measurement) -> Sequence[Peak]:
    validated = None if measured.validation is None else measured.validation.peak
    peaks = (measured.first_step, measured.steady, validated)
    return [peak for peak in peaks if peak is not None]
