"""A run on an invented GPU, made by the real search with an invented memory model."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsprobe.analysis.search import Process
from bsprobe.engine.probe import Probing
from bsprobe.records.matrix import matrix
from bsprobe.records.runs import DeviceRequest, Recommendation, Run
from bsprobe.records.trials import ModelFacts, Peak, Purpose, Source, Trial, TrialSpec
from bsprobe.records.units import GIB, MIB
from bsprobe.records.variants import Norm, Precision
from bsprobe.storage.journal import Journal
from tests.support import builders
from tests.support.builders import Silence, broke, failure, header, measurement, ran
from tests.support.explanations import REPORT
from tests.support.study_builders import GROUPS

ENVIRONMENT = replace(REPORT.environment, command="bsprobe run --norm batch,group")
DEVICE = replace(
    builders.DEVICE,
    name="NVIDIA Invented 24",
    capacity_bytes=23 * GIB,
    limit_bytes=None,
    other_processes_bytes=GIB,
    compute_capability="9.0",
    driver="580.65",
    notes=("Other processes held 1.00 GiB of this GPU.",),
)
PER_IMAGE = {
    (Precision.FP32, Norm.BATCH): 3.9 * GIB,
    (Precision.FP32, Norm.GROUP): 3.9 * GIB,
    (Precision.AMP_FP16, Norm.BATCH): 2.1 * GIB,
    (Precision.AMP_FP16, Norm.GROUP): 30 * GIB,
}


def invented_trial(
    spec: TrialSpec, *, process: Process, purpose: Purpose, on_phase: Callable[[str], None]
) -> Trial:
    """Invent a trial: affine memory, saturating throughput; one variant does not fit at all."""
    on_phase("step 1")
    variant = spec.variant
    accumulated = 168 * MIB if spec.accumulation_steps > 1 else 0
    peak = int(GIB + PER_IMAGE[variant.precision, variant.norm] * spec.batch_size) + accumulated
    outside = 512 * MIB
    images = spec.batch_size * spec.accumulation_steps
    seconds = 0.05 + images / (10 if variant.precision is Precision.FP32 else 18)
    measured = replace(
        measurement(),
        model=ModelFacts(parameters=43_901_068, groups=GROUPS),
        first_step=Peak(allocated_bytes=peak - 400 * MIB, reserved_bytes=peak - 200 * MIB),
        steady=Peak(allocated_bytes=peak - 300 * MIB, reserved_bytes=peak),
        outside_allocator_bytes=outside,
        other_processes_bytes=GIB,
        step_seconds=(seconds, seconds * 1.01, seconds * 0.99),
        images_per_second=images / seconds,
    )
    why = failure("OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB.")
    trial = (
        broke(1, why=why)
        if peak + outside > DEVICE.capacity_bytes
        else replace(ran(1), measurement=measured)
    )
    return replace(
        trial,
        spec=spec,
        purpose=purpose,
        fresh_process=process is Process.FRESH or spec.batch_size == 1,
        started_at=ENVIRONMENT.started_at,
        wall_seconds=4.5,
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default matrix: three variants fit, one does not even at batch 1."""
    variants = matrix(models=("deeplabv2-resnet101",), resolutions=(builders.HALF,), choices={})
    settings = replace(
        builders.settings(*variants, max_batch=4096),
        device=DeviceRequest(),
        trial_timeout_seconds=900.0,
    )
    made_with = replace(header(settings), environment=ENVIRONMENT, device=DEVICE)
    with Journal.create(tmp_path_factory.mktemp("run"), made_with) as journal:
        return Probing(
            settings,
            run_trial=invented_trial,
            device=DEVICE,
            journal=journal,
            listener=Silence(),
        ).run(ENVIRONMENT)


@pytest.fixture(scope="session")
def item(run: Run) -> Recommendation:
    """The first recommendation of the run."""
    return next(r.recommendation for r in run.results if r.recommendation is not None)


@pytest.fixture(scope="session")
def predicted(run: Run) -> Run:
    """The same run as a prediction, without times."""
    results = []
    for result in run.results:
        found = result.recommendation
        if found is not None and found.trial is not None:
            found = replace(found, trial=_predicted(found.trial))
        results.append(replace(result, recommendation=found))
    return replace(
        run,
        device=replace(run.device, source=Source.PREDICTED),
        trials=tuple(map(_predicted, run.trials)),
        results=tuple(results),
    )


def _predicted(trial: Trial) -> Trial:
    measured = trial.measurement
    if measured is not None:
        measured = replace(measured, step_seconds=(), images_per_second=None)
    return replace(trial, source=Source.PREDICTED, measurement=measured)
