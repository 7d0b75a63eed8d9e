"""Where the boundary on the GPU at hand should be: predicted, to guide what measures it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bsprobe.errors import DeviceError, UsageError, WorkerError
from bsprobe.gpus import Gpu, compute_capabilities, custom_gpu, find_gpu
from bsprobe.records import (
    DeviceInfo,
    DeviceRequest,
    Prediction,
    Purpose,
    SearchMethod,
    Settings,
    StopReason,
    Trial,
    TrialSpec,
)
from bsprobe.runner import TrialRunner
from bsprobe.search import Probe, Process, find_boundary, half_of
from bsprobe.variants import Variant


class Predictor:
    """Predicts boundaries on one card, in a process of its own that never touches the GPU.

    Args:
        run_trial: Runs a trial on the simulated card; `TrialRunner.run`.
        device: The device that will be measured.
        settings: Of the run.
    """

    def __init__(
        self, run_trial: Callable[..., Trial], device: DeviceInfo, settings: Settings
    ) -> None:
        self._run_trial = run_trial
        self._device = device
        self._settings = settings

    def __call__(self, variant: Variant) -> Prediction:
        """Predict a variant's boundary, or say why it cannot be; then nothing guides the search."""
        trials: dict[int, Trial] = {}

        def trial(batch: int) -> Trial:
            if batch not in trials:
                trials[batch] = self._run_trial(
                    self._spec(variant, batch),
                    process=Process.ANY,
                    purpose=Purpose.SEARCH,
                    on_phase=lambda _: None,
                )
            return trials[batch]

        try:
            boundary = find_boundary(
                # A simulated card begins empty in every trial.
                lambda batch, _: replace(Probe.of(trial(batch)), fresh=True),
                capacity_bytes=self._device.capacity_bytes,
                max_batch=self._settings.max_batch,
            )
            if boundary.largest is not None:
                trial(half_of(boundary.largest))
        except (DeviceError, WorkerError) as error:
            return Prediction(largest=None, detail=str(error))
        if boundary.stop in (StopReason.FAILED, StopReason.TIME):
            return Prediction(largest=None, detail=boundary.detail)
        return Prediction(largest=boundary.largest, peaks=_peaks(trials))

    def _spec(self, variant: Variant, batch: int) -> TrialSpec:
        return TrialSpec(
            variant=variant,
            batch_size=batch,
            warmup_steps=self._settings.warmup_steps,
            measured_steps=self._settings.measured_steps,
            evaluation_resolution=self._settings.evaluation_resolution,
        )


@contextmanager
def predictor_for(settings: Settings, device: DeviceInfo) -> Iterator[Predictor | None]:
    """A predictor for the device that will be measured; None where the search needs none.

    Raises:
        UsageError: The search is to be guided, and nothing can be predicted of this device.
    """
    if settings.search is not SearchMethod.GUIDED:
        yield None
        return
    check_can_guide(device.kind)
    with TrialRunner(
        DeviceRequest(gpu=card_of(device), memory_limit_bytes=device.capacity_bytes),
        models=tuple(dict.fromkeys(variant.model for variant in settings.variants)),
        timeout=settings.trial_timeout_seconds,
    ) as runner:
        yield Predictor(runner.run, device, settings)


def check_can_guide(kind: str) -> None:
    """Refuse to guide a search on a kind of device: `cuda`, `cpu` or `simulated`.

    Raises:
        UsageError: Only GPUs that run trials can be predicted for and measured.
    """
    if kind == "cpu":
        raise UsageError(
            "--search guided needs a prediction, and nothing predicts the memory of a CPU",
            hint="leave it out, or probe a GPU: --device cuda",
        )
    if kind == "simulated":
        raise UsageError(
            "--search guided measures on a GPU; without one, all of it is predicted anyway",
            hint="leave it out",
        )


def card_of(device: DeviceInfo) -> Gpu:
    """The card of the catalogue that a device is, with the memory that it really has.

    One that the catalogue lacks is a custom card.

    Raises:
        UsageError: No card of its compute capability is known.
    """
    try:
        return replace(find_gpu(device.name), total_bytes=device.total_bytes)
    except UsageError:
        pass
    capability = device.compute_capability or "unknown"
    if capability not in compute_capabilities():
        raise UsageError(
            f"--search guided: nothing is known of {device.name}, compute capability {capability}",
            hint="leave it out",
        )
    return custom_gpu(device.total_bytes, capability)


def _peaks(trials: dict[int, Trial]) -> tuple[tuple[int, int], ...]:
    """The peaks of what fits without retries: a retried trial's is the capacity."""
    return tuple(
        (batch, trial.measurement.peak_bytes)
        for batch, trial in sorted(trials.items())
        if trial.measurement is not None and not trial.measurement.allocator_retries
    )
