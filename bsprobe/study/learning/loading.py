"""The sweep of the data loader: each setting is timed alone and in a training."""

import itertools
import time
from collections.abc import Callable, Iterator

from bsprobe.study.learning.place import Place
from bsprobe.study.learning.seeded_images import SeededImages, training_images, training_loader
from bsprobe.study.records import (
    LoaderRate,
    LoaderSetting,
    LoaderSpec,
    Loading,
    TrainingSpec,
)
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.step import Batch, Task, build_task, training_step

ReportPhase = Callable[[str], None]

_SECONDS = 1.0
"""Seconds for which each setting is timed, alone and in a training; at least `_FEWEST` updates."""
_FEWEST = 3
_WARMUP_STEPS = 2


def measure_loading(spec: LoaderSpec, place: Place, report: ReportPhase) -> Loading:
    """Time the training step on images in memory, then each setting of the loader.

    Args:
        spec: The training and the settings.
        place: The device to train on.
        report: Called with each phase.

    Raises:
        FileError: An image is damaged.
    """
    report("building")
    training = spec.training
    task = build_task(training.variant, place.device)
    images = training_images(
        training.data,
        training.variant.size,
        training.input_normalisation or InputNormalisation.IMAGENET_RGB,
        seed=training.seed,
    )
    steps = training.plan.accumulation_steps
    first = training_loader(images, training, _NONE, start=0)
    report("timing the step")
    ready = list(itertools.islice(first, steps))
    step_rate = _rate_of_steps(task, itertools.cycle(ready), training)
    rates = []
    for setting in spec.settings:
        report(f"timing the loader, {setting.workers} workers")
        rates.append(_rate(task, images, training, setting))
    return Loading(
        effective_batch=training.plan.effective_batch,
        micro_batch=training.plan.micro_batch,
        step_images_per_second=step_rate,
        rates=tuple(rates),
    )


_NONE = LoaderSetting(workers=0, prefetch_factor=None, pin_memory=False)


def _rate(
    task: Task, images: SeededImages, training: TrainingSpec, setting: LoaderSetting
) -> LoaderRate:
    stream = training_loader(images, training, setting, start=0)
    for _ in range(setting.workers * (setting.prefetch_factor or 0) + 1):
        next(stream)  # leave prefetched batches out of the timing
    return LoaderRate(
        setting=setting,
        alone_images_per_second=_rate_alone(stream, training.plan.accumulation_steps),
        fed_images_per_second=_rate_of_steps(task, stream, training),
    )


def _rate_alone(stream: Iterator[Batch], steps: int) -> float:
    start, count = time.perf_counter(), 0
    while count < _FEWEST * steps or time.perf_counter() - start < _SECONDS:
        batch = next(stream)
        count += 1
    return count * len(batch.images) / (time.perf_counter() - start)


def _rate_of_steps(task: Task, stream: Iterator[Batch], training: TrainingSpec) -> float:
    """Images per second of updates, including the wait for images."""
    steps = training.plan.accumulation_steps
    seconds: list[float] = []
    for _ in range(_WARMUP_STEPS):
        training_step(task, list(itertools.islice(stream, steps))).item()
    while len(seconds) < _FEWEST or sum(seconds) < _SECONDS:
        start = time.perf_counter()
        # `item` waits for the device.
        training_step(task, list(itertools.islice(stream, steps))).item()
        seconds.append(time.perf_counter() - start)
    return training.plan.effective_batch * len(seconds) / sum(seconds)
