"""Records for tests: small ones, and a whole run on a simulated GPU."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bsprobe._version import __version__
from bsprobe.analysis.recommendation import Limits, recommend
from bsprobe.analysis.search import Process
from bsprobe.engine.probe import Listener, Predict, Probing, RunTrial
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Certainty, Outcome, classify
from bsprobe.records.runs import (
    REFERENCE,
    SCHEMA_VERSION,
    DeviceInfo,
    DeviceRequest,
    Environment,
    Prediction,
    Recommendation,
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
from bsprobe.records.variants import (
    Checkpointing,
    CudnnBenchmark,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
)
from bsprobe.records.workload import OwnParts
from bsprobe.storage.checks import check_run
from bsprobe.storage.journal import Header, Journal

STARTED_AT = "2025-01-31T12:00:00+00:00"
HALF = Resolution(height=512, width=1024)
VARIANT = Variant(model="deeplabv2-resnet101", resolution=HALF)
AMP = replace(VARIANT, precision=Precision.AMP_FP16)
GROUP = replace(VARIANT, norm=Norm.GROUP)
UNUSUAL = Variant(
    model="deeplabv3-resnet50",
    resolution=Resolution(height=1024, width=2048),
    precision=Precision.AMP_BF16,
    norm=Norm.FROZEN,
    checkpointing=Checkpointing.ON,
    memory_format=MemoryFormat.NHWC,
    optimizer=OptimizerName.ADAMW,
    cudnn_benchmark=CudnnBenchmark.ON,
    classes=7,
    channels=4,
    own=OwnParts(
        model_args=(("depth", "[2, 3]"), ("stem", "deep")),
        loss="parts:loss",
        optimizer="parts:optimizer",
        batches="parts:batches",
    ),
)
"""A variant without any default value."""
GROUPS = (("backbone", 1.0), ("head weights", 10.0), ("head biases", 20.0))

DEVICE = DeviceInfo(
    kind=DeviceKind.CUDA,
    name="NVIDIA GeForce RTX 4090",
    source=Source.MEASURED,
    total_bytes=24 * GIB,
    capacity_bytes=20 * GIB,
    limit_bytes=20 * GIB,
    other_processes_bytes=300 * MIB,
    compute_capability="8.9",
    driver="570.86.10",
    tf32_convolutions=True,
    tf32_matmuls=False,
    notes=("Another process holds 300 MiB.",),
)
ENVIRONMENT = Environment(
    bsprobe="0.1.0",
    commit="0123abc",
    command="bsprobe run --max-batch 64",
    started_at=STARTED_AT,
    python="3.11.9",
    platform="Linux-6.1-x86_64",
    torch="2.6.0+cu124",
    torchvision="0.21.0+cu124",
    cuda="12.4",
    cudnn="90100",
    cuda_alloc_conf="expandable_segments:True",
    cpu_threads=16,
)


def settings(
    *variants: Variant,
    target: Target | None = None,
    max_batch: int = 64,
    time_limit_seconds: float | None = None,
) -> Settings:
    return Settings(
        variants=variants or (VARIANT,),
        device=DeviceRequest(device="cuda:0", memory_limit_bytes=20 * GIB),
        target=target or Target(),
        max_batch=max_batch,
        trial_timeout_seconds=600.0,
        time_limit_seconds=time_limit_seconds,
    )


def header(made_with: Settings | None = None, device: DeviceInfo = DEVICE) -> Header:
    return Header(
        schema_version=SCHEMA_VERSION,
        environment=ENVIRONMENT,
        device=device,
        settings=made_with or settings(),
    )


def measurement(
    peak_bytes: int = 8 * GIB,
    images_per_second: float | None = 20.0,
    *,
    images: int = 10,
    timed: int = 3,
) -> Measurement:
    """Return a measurement with the given `peak_bytes`, reached in the first step.

    Its timed steps of some images each give the images per second.
    """
    outside = min(500 * MIB, peak_bytes // 2)
    first = peak_bytes - outside
    return Measurement(
        model=ModelFacts(parameters=43_901_142, groups=GROUPS),
        first_step=Peak(allocated_bytes=first * 9 // 10, reserved_bytes=first),
        steady=Peak(allocated_bytes=first * 8 // 10, reserved_bytes=first),
        outside_allocator_bytes=outside,
        updates_applied=4,
        steps=4,
        step_seconds=()
        if images_per_second is None
        else tuple(images / images_per_second * share for share in (1.0, 0.8, 1.2)[:timed]),
        images_per_second=images_per_second,
    )


def failure(
    message: str = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    *,
    certainty: Certainty = Certainty.CERTAIN,
) -> Failure:
    return Failure(
        message=message,
        certainty=certainty,
        evidence=classify(DeviceKind.CUDA, message=message).evidence,
        phase="step 1",
        traceback="Traceback (most recent call last):\n  ...",
    )


def ran(
    batch: int,
    peak_bytes: int = 8 * GIB,
    images_per_second: float | None = 20.0,
    *,
    variant: Variant = VARIANT,
    accumulation_steps: int = 1,
    outcome: Outcome = Outcome.FITS,
    timed: int = 3,
) -> Trial:
    """Return a trial that ran."""
    return Trial(
        spec=TrialSpec(
            variant=variant,
            batch_size=batch,
            accumulation_steps=accumulation_steps,
            measured_steps=timed,
        ),
        outcome=outcome,
        source=Source.MEASURED,
        purpose=Purpose.PROOF,
        fresh_process=True,
        measurement=measurement(
            peak_bytes, images_per_second, images=batch * accumulation_steps, timed=timed
        ),
        failure=None,
        started_at=STARTED_AT,
        wall_seconds=4.2,
    )


def broke(
    batch: int,
    outcome: Outcome = Outcome.OUT_OF_MEMORY,
    why: Failure | None = None,
    *,
    variant: Variant = VARIANT,
    accumulation_steps: int = 1,
) -> Trial:
    """Return a trial that did not run."""
    made = ran(batch, variant=variant, accumulation_steps=accumulation_steps)
    return replace(made, outcome=outcome, measurement=None, failure=why or failure())


FOUND = Limits(largest=12, safe=11, best=8, best_is_measured=True, keeps_headroom=True)


def item(
    variant: Variant, rate: float | None = None, *, safe: int = 10, batch: int = 10
) -> Recommendation:
    """Return a recommendation like that of `FOUND`, with another safe batch and a trial of it."""
    found = replace(FOUND, safe=safe, best=min(safe, FOUND.best))
    made = recommend(variant, found, replace(REFERENCE, batch=batch), groups=dict(GROUPS))
    return replace(made, trial=ran(made.plan.micro_batch, GIB, rate, variant=variant))


class ArithmeticGpu:
    """Runs trials as `TrialRunner.run` does, on a GPU whose memory is a formula.

    Args:
        needed_bytes: The formula.
        capacity_bytes: The memory of the GPU.
        alter: Replaces a trial; its exceptions are raised by the GPU.

    Attributes:
        asked: The requested trials, in order.
    """

    def __init__(
        self,
        needed_bytes: Callable[[TrialSpec], int] | None = None,
        *,
        capacity_bytes: int = DEVICE.capacity_bytes,
        alter: Callable[[Trial], Trial] = lambda trial: trial,
    ) -> None:
        self.asked: list[tuple[TrialSpec, Process]] = []
        self._needed_bytes = needed_bytes or affine_need
        self._capacity_bytes = capacity_bytes
        self._alter = alter
        self._last_variant: Variant | None = None
        self._is_spoilt = False

    def __call__(
        self,
        spec: TrialSpec,
        *,
        process: Process,
        purpose: Purpose,
        on_phase: Callable[[str], None],
    ) -> Trial:
        on_phase("step 1 of 4")
        self.asked.append((spec, process))
        fresh = process is Process.FRESH or self._is_spoilt or spec.variant != self._last_variant
        self._last_variant = spec.variant
        needed = self._needed_bytes(spec)
        self._is_spoilt = needed > self._capacity_bytes
        batch, steps = spec.batch_size, spec.accumulation_steps
        record = (
            broke(batch, variant=spec.variant, accumulation_steps=steps)
            if self._is_spoilt
            else ran(
                batch,
                needed,
                images_per_second=round(40 * batch / (batch + 2), 3),
                variant=spec.variant,
                accumulation_steps=steps,
                timed=spec.measured_steps,
            )
        )
        return self._alter(replace(record, spec=spec, purpose=purpose, fresh_process=fresh))


def affine_need(spec: TrialSpec) -> int:
    """Return 2 GiB, plus 1.5 GiB an image (0.75 if mixed), plus 300 MiB if accumulating."""
    half = spec.variant.precision is not Precision.FP32
    kept = 300 * MIB if spec.accumulation_steps > 1 else 0
    return 2 * GIB + kept + spec.batch_size * (768 * MIB if half else 1536 * MIB)


class Silence:
    """A listener to runs and explanations that records its calls."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.predictions: list[Prediction] = []
        self.started: list[TrialSpec] = []
        self.phases: list[str] = []
        self.trials: list[Trial] = []
        self.results: list[VariantResult] = []

    def on_variant(self, variant: Variant) -> None:
        self.variants.append(variant)

    def on_open(self, settings: Settings) -> None: ...
    def on_predicting(self) -> None: ...
    def on_stage(self, stage: str) -> None: ...

    def on_prediction(self, prediction: Prediction) -> None:
        self.predictions.append(prediction)

    def on_trial_start(self, spec: TrialSpec) -> None:
        self.started.append(spec)

    def on_phase(self, phase: str) -> None:
        self.phases.append(phase)

    def on_trial(self, trial: Trial) -> None:
        self.trials.append(trial)

    def on_result(self, result: VariantResult) -> None:
        self.results.append(result)


def probed_run(
    folder: Path,
    made_with: Settings | None = None,
    *,
    run_trial: RunTrial | None = None,
    listener: Listener | None = None,
    known: Sequence[Trial] = (),
    predict: Predict | None = None,
    device: DeviceInfo = DEVICE,
) -> Run:
    """Return a complete, consistent run: three variants on an `ArithmeticGpu`, with a journal."""
    chosen = made_with or settings(VARIANT, AMP, GROUP)
    folder.mkdir(exist_ok=True)
    with Journal.create(folder, header(chosen, device)) as journal:
        made = Probing(
            chosen,
            run_trial=run_trial or ArithmeticGpu(),
            device=device,
            journal=journal,
            listener=listener or Silence(),
            known=known,
            predict=predict,
        ).run(ENVIRONMENT)
    check_run(replace(made, environment=replace(ENVIRONMENT, bsprobe=__version__)))
    return made


def populated_run(folder: Path) -> Run:
    """Return a run in which every field of every record has a value at least once."""
    asked = settings(VARIANT, AMP, GROUP, UNUSUAL, target=Target(lr_rule="sqrt"))
    asked = replace(asked, time_limit_seconds=3600.0, seed=7)
    run = probed_run(folder, asked)
    everything = replace(
        measurement(images=3),
        evaluation=Peak(allocated_bytes=3 * GIB, reserved_bytes=None),
        other_processes_bytes=300 * MIB,
        allocator_retries=2,
        allocator_ooms=1,
    )
    unusual = replace(
        ran(3, variant=UNUSUAL, outcome=Outcome.FITS_WITH_RETRIES), measurement=everything
    )
    probable = broke(4, why=failure("killed", certainty=Certainty.PROBABLE))
    more = [replace(each, spec=replace(each.spec, seed=7)) for each in (unusual, probable)]
    size = Resolution(height=1024, width=2048)

    def evaluated(trial: Trial | None) -> Trial | None:
        return trial and replace(trial, spec=replace(trial.spec, evaluation_resolution=size))

    return replace(
        run,
        settings=replace(run.settings, evaluation_resolution=size),
        trials=tuple(filter(None, map(evaluated, (*run.trials, *more)))),
        results=tuple(
            replace(
                each,
                boundary=replace(each.boundary, detail="A sentence."),
                recommendation=each.recommendation
                and replace(each.recommendation, trial=evaluated(each.recommendation.trial)),
            )
            for each in run.results
        ),
    )
