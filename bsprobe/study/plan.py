"""The comparable trainings of a study: their batches, seeds, learning rates and updates."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bsprobe.analysis.recommendation import WARMUP_SHARE, plan, warms_up
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import TrainingPlan
from bsprobe.study.records import (
    Ending,
    LoaderSetting,
    StudySettings,
    Training,
    TrainingSpec,
)

NOISE_STEPS = 16
"""Gradient-noise samples of each batch, all in the training of its first seed."""
MOST_WORKERS = 4
"""Upper bound for the default number of workers."""
_PREFETCH = 2
"""PyTorch's default."""


def largest_divisor(batch: int, most: int) -> int:
    """The largest micro-batch up to `most` that divides the batch."""
    return max(d for d in range(1, min(batch, most) + 1) if batch % d == 0)


def training_plan(settings: StudySettings, batch: int, micro_batch: int) -> TrainingPlan:
    """Plan one training, with the learning rate and the share of warm-up as in `recommend`.

    Args:
        settings: The study; its images give the number of updates.
        batch: The effective batch.
        micro_batch: The micro-batch, a divisor of `batch`.
    """
    scaled = plan(
        settings.variant,
        settings.target,
        micro_batch=micro_batch,
        steps=batch // micro_batch,
        groups={},
    )
    updates = settings.images_seen // batch
    return replace(
        scaled,
        updates=updates,
        warmup_updates=round(updates * WARMUP_SHARE) if warms_up(settings.target, batch) else 0,
    )


def next_training(
    settings: StudySettings, done: Sequence[Training], *, on_gpu: bool, processors: int
) -> TrainingSpec | None:
    """Choose the next training: by batch, ascending, then by seed.

    If a micro-batch ran out of memory and the settings give none, the next smaller divisor is
    used, for this batch and all later ones.

    Args:
        settings: The settings of the study.
        done: The trainings so far.
        on_gpu: The device is a GPU.
        processors: CPU cores of the machine.

    Returns:
        The training; None if the study is complete.
    """
    most = settings.micro_batch or max(settings.batches)
    workers = settings.workers
    if workers is None:
        workers = default_workers(on_gpu=on_gpu, processors=processors)
    ended = {(t.spec.plan.effective_batch, t.spec.seed): t for t in done}
    if settings.micro_batch is None:
        failed = [t.spec.plan.micro_batch for t in done if t.ended is Ending.OUT_OF_MEMORY]
        most = min([most, *(micro - 1 for micro in failed)])
    for batch in settings.batches:
        for seed in settings.seeds:
            last = ended.get((batch, seed))
            again = last is not None and _may_be_smaller(settings, last)
            if last is None or again:
                micro = largest_divisor(batch, max(1, most))
                return training_spec(settings, batch, micro, seed, workers=workers)
    return None


def final_trainings(trainings: Iterable[Training]) -> tuple[Training, ...]:
    """The last training of each batch and seed: those of smaller micro-batches replace others."""
    last = {(t.spec.plan.effective_batch, t.spec.seed): t for t in trainings}
    return tuple(last.values())


def counts(training: Training, kind: DeviceKind) -> bool:
    """Return whether a resumed study keeps a training: its result, or a conclusive failure.

    Args:
        training: A training of the interrupted study.
        kind: The kind of device that it ran on.
    """
    failure = training.failure
    return failure is None or failure.proves(Outcome(training.ended.value), kind)


def loader_settings(*, on_gpu: bool, processors: int) -> tuple[LoaderSetting, ...]:
    """The settings to sweep: workers in powers of two, then prefetching and pinning."""
    counts = [2**power for power in range(processors.bit_length()) if 2**power <= processors]
    most = max(counts)
    swept = [
        LoaderSetting(workers=0, prefetch_factor=None, pin_memory=on_gpu),
        *(
            LoaderSetting(workers=count, prefetch_factor=_PREFETCH, pin_memory=on_gpu)
            for count in counts
        ),
        LoaderSetting(workers=most, prefetch_factor=2 * _PREFETCH, pin_memory=on_gpu),
    ]
    if on_gpu:
        swept.append(LoaderSetting(workers=most, prefetch_factor=_PREFETCH, pin_memory=False))
    return tuple(swept)


def default_workers(*, on_gpu: bool, processors: int) -> int:
    """Default number of workers: 0 on the CPU, where they share the cores with the step."""
    return min(MOST_WORKERS, processors) if on_gpu else 0


def _may_be_smaller(settings: StudySettings, training: Training) -> bool:
    return (
        settings.micro_batch is None
        and training.ended is Ending.OUT_OF_MEMORY
        and training.spec.plan.micro_batch > 1
    )


def training_spec(
    settings: StudySettings, batch: int, micro_batch: int, seed: int, *, workers: int
) -> TrainingSpec:
    """Describe a training.

    Args:
        settings: The settings of the study.
        batch: The effective batch.
        micro_batch: The micro-batch, a divisor of `batch`.
        seed: The seed.
        workers: Processes that load images.
    """
    return TrainingSpec(
        variant=settings.variant,
        plan=training_plan(settings, batch, micro_batch),
        seed=seed,
        validations=settings.validations,
        noise_steps=NOISE_STEPS if seed == settings.seeds[0] else 0,
        data=settings.data,
        workers=workers,
        weights=settings.weights,
        input_normalisation=settings.input_normalisation,
    )
