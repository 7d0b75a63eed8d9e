"""Predicted boundaries of the GPU that is measured, to guide its search."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bsprobe.analysis.expectation import half_of
from bsprobe.analysis.search import Probe, Process, find_boundary
from bsprobe.engine.probe import RunTrial
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError, UsageError, WorkerError
from bsprobe.records.gpus import Gpu, compute_capabilities, custom_gpu, find_gpu
from bsprobe.records.runs import (
    DeviceInfo,
    DeviceRequest,
    Prediction,
    SearchMethod,
    Settings,
    StopReason,
    is_same_capacity,
)
from bsprobe.records.trials import Purpose, Trial
from bsprobe.records.variants import Variant
from bsprobe.worker.process import ReportPhase
from bsprobe.worker.runner import TrialRunner


class Predictor:
    """Predicts boundaries on one card.

    Args:
        run_trial: Runs a trial on the simulated card (`TrialRunner.run`).
        device: The device to be measured.
        settings: The settings of the run.
    """

    def __init__(self, run_trial: RunTrial, device: DeviceInfo, settings: Settings) -> None:
        self._run_trial = run_trial
        self._device = device
        self._settings = settings

    def __call__(self, variant: Variant, *, on_phase: ReportPhase) -> Prediction:
        """Predict the boundary of a variant, or return the reason why it cannot be predicted."""
        trials: list[Trial] = []

        def measure(batch: int, process: Process) -> Probe:
            spec = replace(self._settings.trial(variant, batch), data=None)
            trial = self._run_trial(
                spec, process=process, purpose=Purpose.SEARCH, on_phase=on_phase
            )
            trials.append(trial)
            return Probe.of(trial)

        try:
            boundary = find_boundary(
                measure,
                capacity_bytes=self._device.capacity_bytes,
                max_batch=self._settings.max_batch,
            )
            if boundary.largest is not None:
                measure(half_of(boundary.largest), Process.ANY)
        except (DeviceError, WorkerError) as error:
            return Prediction(largest=None, detail=str(error))
        if boundary.has_failed or boundary.stop is StopReason.TIME:
            return Prediction(largest=None, detail=boundary.detail)
        measured = [trial.measurement for trial in trials if trial.measurement is not None]
        return Prediction(
            largest=boundary.largest,
            peaks=_peaks(trials),
            assumptions=tuple(
                dict.fromkeys(each for trial in measured for each in trial.model.assumptions)
            ),
        )


@contextmanager
def predictor_for(settings: Settings, device: DeviceInfo) -> Iterator[Predictor | None]:
    """Yield a predictor for the device to be measured, or None if the search is not guided.

    The predictor has its own worker. This worker does not check the models again, because a
    network that cannot be predicted can still be measured.

    Raises:
        UsageError: The search is guided, and the device cannot be predicted.
    """
    if settings.search is not SearchMethod.GUIDED:
        yield None
        return
    check_can_guide(device.kind)
    with TrialRunner(
        DeviceRequest(gpu=card_of(device), memory_limit_bytes=device.capacity_bytes),
        timeout=settings.trial_timeout_seconds,
    ) as runner:
        yield Predictor(runner.run, device, settings)


def check_can_guide(kind: str) -> None:
    """Check that a search on a kind of device (`cuda`, `cpu` or `simulated`) can be guided.

    Raises:
        UsageError: The device is not a GPU that runs trials.
    """
    if kind == DeviceKind.CPU:
        raise UsageError(
            "--search guided needs a prediction, and nothing predicts the memory of a CPU",
            hint="leave it out, or probe a GPU: --device cuda",
        )
    if kind == DeviceKind.SIMULATED:
        raise UsageError(
            "--search guided measures on a GPU; without one, all of it is predicted anyway",
            hint="leave it out",
        )


def card_of(device: DeviceInfo) -> Gpu:
    """Return the catalogue's card for a device, with the memory of the device.

    A device that the catalogue lacks, or lists more than once by name, becomes a custom card.

    Raises:
        UsageError: The compute capability of the device is unknown.
    """
    capability = device.compute_capability or "unknown"
    if capability not in compute_capabilities():
        raise UsageError(
            f"{device.name} cannot be predicted: compute capability {capability} is not supported",
            hint="leave out --search guided, or name another card: bsprobe explain --gpu NAME",
        )
    try:
        listed = find_gpu(device.name)
    except UsageError:
        return custom_gpu(device.total_bytes, capability)
    return replace(listed, total_bytes=device.total_bytes)


def card_like(device: DeviceInfo) -> DeviceRequest:
    """Return the simulated card for a GPU: the catalogue's, with the capacity of the GPU.

    Raises:
        UsageError: The compute capability of the GPU is unknown.
    """
    is_whole = is_same_capacity(device.capacity_bytes, device.total_bytes)
    limit = None if device.limit_bytes is None and is_whole else device.capacity_bytes
    return DeviceRequest(gpu=card_of(device), memory_limit_bytes=limit)


def _peaks(trials: Sequence[Trial]) -> tuple[tuple[int, int], ...]:
    """Return the peaks of trials without retries; the peak of a retried trial is the capacity."""
    peaks = {
        trial.spec.batch_size: trial.measurement.peak_bytes
        for trial in trials
        if trial.measurement is not None and not trial.measurement.allocator_retries
    }
    return tuple(sorted(peaks.items()))
