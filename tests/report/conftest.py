"""A whole run over an invented GPU, made by the real search over an invented memory model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from bsprobe.analysis.search import Process
from bsprobe.engine.probe import Probing
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import (
    SCHEMA_VERSION,
    DeviceInfo,
    DeviceRequest,
    Environment,
    Prediction,
    Run,
    Settings,
    Target,
    VariantResult,
)
from bsprobe.records.trials import (
    Failure,
    Measurement,
    ModelFacts,
    Peak,
    Purpose,
    Source,
    Trial,
    TrialSpec,
)
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Norm, Precision, Variant, matrix
from bsprobe.storage.journal import Header, Journal

ENVIRONMENT = Environment(
    bsprobe="0.1.0",
    commit="abc1234",
    command="bsprobe run --norm batch,group",
    started_at="2026-01-02T03:04:05+00:00",
    python="3.11.7",
    platform="Linux-6.1-x86_64",
    torch="2.11.0",
    torchvision="0.26.0",
    cuda="13.0",
    cudnn="91500",
    cuda_alloc_conf=None,
    cpu_threads=16,
)
DEVICE = DeviceInfo(
    kind="cuda",
    name="NVIDIA Invented 24",
    source=Source.MEASURED,
    total_bytes=24 * GIB,
    capacity_bytes=23 * GIB,
    other_processes_bytes=GIB,
    compute_capability="9.0",
    driver="580.65",
    tf32_convolutions=True,
    tf32_matmuls=False,
    notes=("Other processes held 1.00 GiB of this GPU.",),
)
PER_IMAGE = {
    (Precision.FP32, Norm.BATCH): 3.9 * GIB,
    (Precision.FP32, Norm.GROUP): 3.9 * GIB,
    (Precision.AMP_FP16, Norm.BATCH): 2.1 * GIB,
    (Precision.AMP_FP16, Norm.GROUP): 30 * GIB,
}
GROUPS = (("backbone", 1.0), ("classifier weights", 10.0), ("classifier biases", 20.0))


def invented_trial(
    spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: Callable[[str], None]
) -> Trial:
    """Memory affine in the batch, throughput that saturates; batch 1 of one variant never fits."""
    on_phase("step 1")
    variant = spec.variant
    accumulated = 168 * MIB if spec.accumulation_steps > 1 else 0
    peak = int(GIB + PER_IMAGE[variant.precision, variant.norm] * spec.batch_size) + accumulated
    outside = 512 * MIB
    base = {
        "spec": spec,
        "source": Source.MEASURED,
        "purpose": purpose,
        "fresh_process": process is Process.FRESH or spec.batch_size == 1,
        "started_at": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 4.5,
    }
    if peak + outside > DEVICE.capacity_bytes:
        failure = Failure(
            message="OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB.",
            certainty=Certainty.CERTAIN,
            evidence="CUDA out of memory",
            phase="step 1",
            traceback="Traceback (most recent call last): ...",
        )
        return Trial(outcome=Outcome.OUT_OF_MEMORY, measurement=None, failure=failure, **base)  # type: ignore[arg-type] # the shared fields, checked by the dataclass
    images = spec.batch_size * spec.accumulation_steps
    seconds = 0.05 + images / (10 if variant.precision is Precision.FP32 else 18)
    measurement = Measurement(
        model=ModelFacts(parameters=43_901_068, groups=GROUPS),
        first_step=Peak(allocated_bytes=peak - 400 * MIB, reserved_bytes=peak - 200 * MIB),
        steady=Peak(allocated_bytes=peak - 300 * MIB, reserved_bytes=peak),
        outside_allocator_bytes=outside,
        other_processes_bytes=GIB,
        updates_applied=4,
        steps=4,
        step_seconds=(seconds, seconds * 1.01, seconds * 0.99),
        images_per_second=images / seconds,
    )
    return Trial(outcome=Outcome.FITS, measurement=measurement, failure=None, **base)  # type: ignore[arg-type] # as above


class Silent:
    """Hears everything, says nothing."""

    def on_variant(self, variant: Variant) -> None: ...
    def on_predicting(self) -> None: ...
    def on_prediction(self, prediction: Prediction) -> None: ...
    def on_trial_start(self, spec: TrialSpec) -> None: ...
    def on_phase(self, phase: str) -> None: ...
    def on_trial(self, trial: Trial) -> None: ...
    def on_result(self, result: VariantResult) -> None: ...


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default matrix: three variants fit, one does not even at batch 1."""
    settings = Settings(
        variants=matrix(
            models=("deeplabv2-resnet101",),
            resolutions=(Resolution(height=512, width=1024),),
            choices={},
        ),
        device=DeviceRequest(),
        target=Target(),
        max_batch=4096,
        trial_timeout_seconds=900.0,
    )
    folder: Path = tmp_path_factory.mktemp("run")
    header = Header(
        schema_version=SCHEMA_VERSION, environment=ENVIRONMENT, device=DEVICE, settings=settings
    )
    with Journal.create(folder, header) as journal:
        made = Probing(
            settings,
            run_trial=invented_trial,
            device=DEVICE,
            journal=journal,
            listener=Silent(),
        )
        return made.run(ENVIRONMENT)


@pytest.fixture(scope="session")
def predicted(run: Run) -> Run:
    """The same run as a prediction: without times."""
    trials = {trial: _predicted(trial) for trial in run.trials}
    return dataclasses.replace(
        run,
        device=dataclasses.replace(run.device, source=Source.PREDICTED),
        trials=tuple(trials.values()),
    )


def _predicted(trial: Trial) -> Trial:
    measured = trial.measurement
    if measured is not None:
        measured = dataclasses.replace(measured, step_seconds=(), images_per_second=None)
    return dataclasses.replace(trial, source=Source.PREDICTED, measurement=measured)
