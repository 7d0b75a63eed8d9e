"""One short, seeded training with validations and checkpoints."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bsprobe.records.errors import FileError
from bsprobe.records.printable import shell_word
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.study.learning.checkpoints import Reached, restore_checkpoint, save_checkpoint
from bsprobe.study.learning.evaluation import best_constant_prediction, class_name, scores
from bsprobe.study.learning.noise import BIG_BATCH, noise_sample
from bsprobe.study.learning.place import Place
from bsprobe.study.learning.schedules import poly_with_warmup
from bsprobe.study.learning.seeded_images import (
    SeededImages,
    mixed_seed,
    training_images,
    training_loader,
    validation_images,
    validation_loader,
)
from bsprobe.study.learning.validation import validate
from bsprobe.study.learning.weights import LoadedWeights, load_weights
from bsprobe.study.records import (
    Chance,
    CurvePoint,
    LoaderSetting,
    TrainingResult,
    TrainingSpec,
)
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.optimizers import parameter_groups
from bsprobe.training.step import Batch, Task, build_task, facts_of, training_step

ReportPhase = Callable[[str], None]

_SAVE_EVERY_SECONDS = 60.0
"""Interval of checkpoints, which are also written at every validation."""
_NOISE = 2
"""A use of the seed, as those in `seeded_images`."""
_NOISE_POSITIONS = 2**40
"""First position of the images of noise samples, beyond those of any training."""


def learn(
    spec: TrainingSpec, checkpoint: Path, place: Place, report: ReportPhase
) -> TrainingResult:
    """Run a training, or resume it from its checkpoint, which the parent process deletes.

    Args:
        spec: The training.
        checkpoint: The file of its checkpoint.
        place: The device to train on.
        report: Called with each phase.

    Raises:
        FileError: An image is damaged, weights do not fit, or a checkpoint cannot be read or
            written.
    """
    report("building")
    torch.backends.cudnn.benchmark = spec.variant.cudnn_benchmark is CudnnBenchmark.ON
    place.meter.reset_peak()
    torch.manual_seed(spec.seed)
    task = build_task(spec.variant, place.device)
    weights = _start_from(spec, task)
    return _Learning(spec, checkpoint, place, task, weights, report).run()


def _start_from(spec: TrainingSpec, task: Task) -> LoadedWeights | None:
    if spec.weights is None:
        return None
    return load_weights(task.model, Path(spec.weights), stated=spec.input_normalisation)


class _Learning:
    """A training in progress."""

    def __init__(
        self,
        spec: TrainingSpec,
        checkpoint: Path,
        place: Place,
        task: Task,
        weights: LoadedWeights | None,
        report: ReportPhase,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._place = place
        self._task = task
        self._weights = weights
        self._report = report
        self._factors = [group.factor for group in parameter_groups(task.model)]
        stated = spec.input_normalisation or InputNormalisation.IMAGENET_RGB
        self._normalisation = stated if weights is None else weights.normalisation
        self._reached = Reached()
        self._saved_at = time.monotonic()

    def run(self) -> TrainingResult:
        spec, plan = self._spec, self._spec.plan
        crop = spec.variant.size
        images = training_images(spec.data, crop, self._normalisation, seed=spec.seed)
        validation = validation_images(spec.data, crop, self._normalisation)
        restored = restore_checkpoint(self._checkpoint, spec, self._task)
        self._reached = restored or self._reached
        if restored is None:
            self._validate(validation_loader(validation, workers=spec.workers))
        marks = _marks(plan.known_updates, spec.validations)
        noise = _noise_counts(marks, plan.known_updates, spec.noise_steps)
        setting = _setting(spec, self._place)
        stream = training_loader(
            images, spec, setting, start=self._reached.updates * plan.effective_batch
        )
        diverged_at = None
        while self._reached.updates < plan.known_updates and diverged_at is None:
            loss = self._update(stream)
            if not math.isfinite(loss):
                diverged_at = self._reached.updates
            elif self._reached.updates in marks:
                self._validate(validation_loader(validation, workers=spec.workers))
                self._sample_noise(images, noise.get(self._reached.updates, 0))
                self._save()
            elif time.monotonic() - self._saved_at > _SAVE_EVERY_SECONDS:
                self._save()
        return self._result(diverged_at, len(validation), images.count)

    def _update(self, stream: Iterator[Batch]) -> float:
        """Run one update with its learning rate and return its loss."""
        plan, reached = self._spec.plan, self._reached
        self._report(self._words())
        share = poly_with_warmup(
            reached.updates, updates=plan.known_updates, warmup_updates=plan.warmup_updates or 0
        )
        groups = self._task.optimizer.param_groups
        for group, factor in zip(groups, self._factors, strict=True):
            group["lr"] = plan.known_rate * factor * share
        start = time.perf_counter()
        micro_batches = list(itertools.islice(stream, plan.accumulation_steps))
        loss = training_step(self._task, micro_batches).item()
        reached.seconds += time.perf_counter() - start
        reached.updates += 1
        reached.losses += (loss,)
        return loss

    def _words(self) -> str:
        reached, total = self._reached, self._spec.plan.known_updates
        words = f"update {reached.updates + 1} of {total}"
        if reached.curve and reached.curve[-1].updates:
            words += f", mIoU {reached.curve[-1].mean_iou:.3f}"
        return words

    def _validate(self, batches: Iterator[Batch]) -> None:
        """Add a point to the curve."""
        reached = self._reached
        self._report(f"validation after {reached.updates} updates")
        found = validate(self._task, batches, classes=self._spec.variant.logits)
        if not int(found.confusion.sum()):
            raise FileError(
                f"{self._spec.data.root}: no pixel of the validation images has a trained class",
                hint=f"inspect the labels: bsprobe data {shell_word(self._spec.data.root)}",
            )
        if reached.chance is None:
            best = best_constant_prediction(found.confusion)
            reached.chance = Chance(
                class_name=class_name(best.class_index),
                pixel_accuracy=best.pixel_accuracy,
                mean_iou=best.mean_iou,
                loss=best.loss,
            )
        score = scores(found.confusion)
        losses, reached.losses = reached.losses, ()
        point = CurvePoint(
            updates=reached.updates,
            images=reached.updates * self._spec.plan.effective_batch,
            seconds=reached.seconds,
            training_loss=math.fsum(losses) / len(losses) if losses else None,
            validation_loss=found.loss,
            pixel_accuracy=score.pixel_accuracy,
            mean_iou=score.mean_iou,
            class_iou=score.class_iou,
        )
        reached.curve += (point,)

    def _sample_noise(self, images: SeededImages, count: int) -> None:
        """Take samples of the gradient noise at the present weights."""
        for number in range(count):
            self._report(f"gradient noise, sample {number + 1} of {count}")
            batches = _noise_images(images, self._spec.seed, len(self._reached.noise))
            sample = noise_sample(self._task, batches, updates=self._reached.updates)
            self._reached.noise += (sample,)

    def _save(self) -> None:
        self._reached.peak_bytes = max(self._reached.peak_bytes, self._place.peak_bytes())
        save_checkpoint(self._checkpoint, self._spec, self._task, self._reached)
        self._saved_at = time.monotonic()

    def _result(
        self, diverged_at: int | None, validation_images: int, training_images: int
    ) -> TrainingResult:
        reached = self._reached
        assert reached.chance is not None  # noqa: S101 - every training begins with a validation
        return TrainingResult(
            diverged_at=diverged_at,
            curve=reached.curve,
            noise=reached.noise,
            chance=reached.chance,
            model=facts_of(self._task, self._spec.variant),
            input_normalisation=self._normalisation,
            weights_loaded=None if self._weights is None else self._weights.sentence,
            training_images=training_images,
            validation_images=validation_images,
            peak_bytes=max(reached.peak_bytes, self._place.peak_bytes()),
        )


def _marks(updates: int, validations: int) -> tuple[int, ...]:
    """The updates after which to validate: evenly spaced, including the last one."""
    marks = {math.ceil(updates * part / validations) for part in range(1, validations + 1)}
    return tuple(sorted(marks))


def _noise_counts(marks: tuple[int, ...], updates: int, samples: int) -> dict[int, int]:
    """The number of noise samples at each mark in the second half, evenly distributed."""
    late = [mark for mark in marks if 2 * mark > updates]
    parts = len(late)
    return {
        mark: samples * (place + 1) // parts - samples * place // parts
        for place, mark in enumerate(late)
    }


def _noise_images(images: SeededImages, seed: int, sample: int) -> Iterator[Batch]:
    """Single images, drawn with replacement: the estimate assumes independent samples."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, _NOISE, sample))
    indices = torch.randint(images.count, (BIG_BATCH,), generator=generator).tolist()
    for place, index in enumerate(indices):
        image, label = images[_NOISE_POSITIONS + sample * BIG_BATCH + place, index]
        yield Batch(images=image[None], labels=label[None])


def _setting(spec: TrainingSpec, place: Place) -> LoaderSetting:
    return LoaderSetting(
        workers=spec.workers,
        prefetch_factor=2 if spec.workers else None,
        pin_memory=place.pins_memory,
    )
