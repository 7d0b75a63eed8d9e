"""Studies for tests, with trainings whose curves are formulas."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bsprobe.records.runs import DeviceRequest, Target
from bsprobe.records.trials import DataSource, Failure, ModelFacts, Peak
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.study.conduct import Studying
from bsprobe.study.journal import StudyHeader, StudyJournal
from bsprobe.study.learning.place import Place
from bsprobe.study.plan import next_training
from bsprobe.study.records import (
    SCHEMA_VERSION,
    Chance,
    CurvePoint,
    Ending,
    LoaderRate,
    LoaderSpec,
    Loading,
    NoiseSample,
    Study,
    StudySettings,
    Training,
    TrainingResult,
    TrainingSpec,
)
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from tests.support.builders import DEVICE, ENVIRONMENT, STARTED_AT, failure

VARIANT = Variant(model="deeplabv2-mini", resolution=Resolution(height=64, width=128))
CHANCE = Chance(class_name="road", pixel_accuracy=0.32, mean_iou=0.017, loss=2.07)
GROUPS = (("backbone", 1.0), ("classifier weights", 10.0), ("classifier biases", 20.0))


def study_settings(
    *batches: int, seeds: int = 2, micro_batch: int | None = None, images: int = 160
) -> StudySettings:
    return StudySettings(
        variant=VARIANT,
        device=DeviceRequest(device="cuda:0", memory_limit_bytes=DEVICE.limit_bytes),
        batches=batches or (2, 4, 8),
        seeds=tuple(range(seeds)),
        images=images,
        validations=4,
        micro_batch=micro_batch,
        target=Target(base_learning_rate=0.004, base_batch=4),
        data=DataSource(root="D"),
        workers=None,
        training_timeout_seconds=3600.0,
    )


def first_training(
    settings: StudySettings | None = None, *, data: Path = Path("D"), size: Resolution | None = None
) -> TrainingSpec:
    """Return the first training of a study, on a CPU, with images from a folder."""
    spec = next_training(settings or study_settings(), [], on_gpu=False, processors=1)
    assert spec is not None
    variant = replace(spec.variant, resolution=size or spec.variant.resolution)
    return replace(spec, data=DataSource(root=str(data)), variant=variant)


class FixedMeter:
    """A device with constant memory use."""

    def reset_peak(self) -> None: ...
    def peak(self) -> Peak:
        return Peak(allocated_bytes=5, reserved_bytes=7)


PLACE = Place(device=torch.device("cpu"), meter=FixedMeter())


def mean_iou(batch: int, seed: int, share: float) -> float:
    """Return the score at a share of the training; batch 4 learns most, seeds differ by 0.01."""
    return share * (0.4 - 0.03 * abs(batch - 4) + 0.01 * seed) + 0.01


def point(spec: TrainingSpec, part: int) -> CurvePoint:
    batch, share = spec.plan.effective_batch, part / spec.validations
    updates = round(spec.plan.known_updates * share)
    iou = mean_iou(batch, spec.seed, share)
    first = iou * 18 / 9.5  # the mean of 18 classes, 17 of them half as good, is `iou`
    return CurvePoint(
        updates=updates,
        images=updates * batch,
        seconds=updates * batch / (20 + batch),
        training_loss=3 - 2 * share if part else None,
        validation_loss=3 - 2 * share + 0.1 * spec.seed,
        pixel_accuracy=0.3 + share / 2,
        mean_iou=iou,
        class_iou=(first, None, *[first / 2] * 17),
    )


def result(spec: TrainingSpec, *, diverged_at: int | None = None) -> TrainingResult:
    parts = spec.validations if diverged_at is None else 1
    return TrainingResult(
        diverged_at=diverged_at,
        curve=tuple(point(spec, part) for part in range(parts + 1)),
        noise=tuple(
            NoiseSample(
                updates=spec.plan.known_updates,
                small_batch=1,
                big_batch=8,
                small_square_norm=7.0 + number % 3,
                big_square_norm=1.8 + number % 2 / 10,
            )
            for number in range(spec.noise_steps)
        ),
        chance=CHANCE,
        model=ModelFacts(parameters=856_668, groups=GROUPS),
        input_normalisation=InputNormalisation.IMAGENET_RGB,
        weights_loaded=None,
        training_images=32,
        validation_images=8,
        peak_bytes=GIB + spec.plan.micro_batch * GIB // 4,
    )


def trained(spec: TrainingSpec, *, diverged_at: int | None = None) -> Training:
    return Training(
        spec=spec,
        ended=Ending.FINISHED if diverged_at is None else Ending.DIVERGED,
        result=result(spec, diverged_at=diverged_at),
        failure=None,
        started_at=STARTED_AT,
        wall_seconds=12.5,
    )


def lost(spec: TrainingSpec, ended: Ending = Ending.OUT_OF_MEMORY) -> Training:
    return replace(trained(spec), ended=ended, result=None, failure=failure())


class FormulaTrainer:
    """Makes trainings like `StudyRunner`, on a GPU that holds a given number of images."""

    def __init__(
        self,
        *,
        holds: int = 1000,
        diverges: Callable[[TrainingSpec], bool] = lambda _: False,
        before: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.asked: list[TrainingSpec] = []
        self.swept: list[LoaderSpec] = []
        self._holds = holds
        self._diverges = diverges
        self._before = before

    def train(
        self, spec: TrainingSpec, checkpoint: Path, *, on_phase: Callable[[str], None]
    ) -> Training:
        self._before(checkpoint)
        assert not checkpoint.exists()
        on_phase("update 1")
        self.asked.append(spec)
        if spec.plan.micro_batch > self._holds:
            return lost(spec)
        return trained(spec, diverged_at=3 if self._diverges(spec) else None)

    def measure_loading(
        self, spec: LoaderSpec, *, on_phase: Callable[[str], None]
    ) -> Loading | Failure:
        on_phase("timing")
        self.swept.append(spec)
        return Loading(
            effective_batch=spec.training.plan.effective_batch,
            micro_batch=spec.training.plan.micro_batch,
            step_images_per_second=100.0,
            rates=tuple(
                LoaderRate(
                    setting=setting,
                    alone_images_per_second=60.0 * (setting.workers or 0.5),
                    fed_images_per_second=min(99.0, 55.0 * (setting.workers or 0.5)),
                )
                for setting in spec.settings
            ),
        )


class Quiet:
    """A listener that prints nothing."""

    def on_training_start(self, spec: TrainingSpec, *, resumed: bool) -> None: ...
    def on_loading_start(self, spec: LoaderSpec) -> None: ...
    def on_phase(self, phase: str) -> None: ...
    def on_training(self, training: Training) -> None: ...
    def on_loading(self, loading: Loading | Failure) -> None: ...


def study_header(settings: StudySettings) -> StudyHeader:
    return StudyHeader(
        schema_version=SCHEMA_VERSION, environment=ENVIRONMENT, device=DEVICE, settings=settings
    )


def made_study(
    folder: Path, settings: StudySettings | None = None, trainer: FormulaTrainer | None = None
) -> Study:
    """Run a whole study, with the real session and trainings that are formulas."""
    chosen = settings or study_settings()
    return conducted(StudyJournal.create(folder, study_header(chosen)), chosen, trainer, folder)


def conducted(
    journal: StudyJournal,
    settings: StudySettings,
    trainer: FormulaTrainer | None,
    folder: Path,
    known: tuple[Training, ...] = (),
) -> Study:
    with journal:
        return Studying(
            settings,
            trainer=trainer or FormulaTrainer(),
            device=DEVICE,
            journal=journal,
            folder=folder,
            listener=Quiet(),
            known=known,
            processors=8,
        ).run(ENVIRONMENT)
