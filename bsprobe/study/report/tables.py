"""The tables of a study, as data frames for CSV files."""

from typing import Any

import pandas as pd

from bsprobe.study.records import CurvePoint, Study, Training
from bsprobe.training.cityscapes.labels import CLASSES


def trainings_table(study: Study) -> pd.DataFrame:
    """One row for each training, in the order of the study."""
    return _frame([_training_row(training) for training in study.trainings])


def curves_table(study: Study) -> pd.DataFrame:
    """One row for each validation."""
    return _frame(
        [
            {**_key(training), **_point_row(point)}
            for training in study.trainings
            if training.result is not None
            for point in training.result.curve
        ]
    )


def loader_table(study: Study) -> pd.DataFrame:
    """One row for each setting of the data loader."""
    if study.loading is None:
        return _frame([])
    return _frame(
        [
            {
                "effective_batch": study.loading.effective_batch,
                "workers": rate.setting.workers,
                "prefetch_factor": rate.setting.prefetch_factor,
                "pin_memory": rate.setting.pin_memory,
                "alone_images_per_second": rate.alone_images_per_second,
                "fed_images_per_second": rate.fed_images_per_second,
                "step_images_per_second": study.loading.step_images_per_second,
            }
            for rate in study.loading.rates
        ]
    )


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of objects, so that columns with missing integers stay integers."""
    return pd.DataFrame(rows, dtype=object)


def _key(training: Training) -> dict[str, Any]:
    plan = training.spec.plan
    return {
        "effective_batch": plan.effective_batch,
        "micro_batch": plan.micro_batch,
        "accumulation_steps": plan.accumulation_steps,
        "seed": training.spec.seed,
    }


def _training_row(training: Training) -> dict[str, Any]:
    plan, result = training.spec.plan, training.result
    end = result.curve[-1] if result is not None else None
    return {
        **_key(training),
        "learning_rate": plan.learning_rate,
        "lr_rule": plan.lr_rule,
        "updates": plan.updates,
        "warmup_updates": plan.warmup_updates,
        "images": training.spec.images,
        "ended": str(training.ended),
        "diverged_at": result and result.diverged_at,
        "failure": training.failure and training.failure.message,
        "mean_iou": end and end.mean_iou,
        "pixel_accuracy": end and end.pixel_accuracy,
        "validation_loss": end and end.validation_loss,
        "training_loss": end and end.training_loss,
        "seconds": end and end.seconds,
        "peak_bytes": result and result.peak_bytes,
        "constant_mean_iou": result and result.chance.mean_iou,
        "constant_loss": result and result.chance.loss,
        "started_at": training.started_at,
        "wall_seconds": training.wall_seconds,
    }


def _point_row(point: CurvePoint) -> dict[str, Any]:
    names = [label.name.replace(" ", "_") for label in CLASSES]
    return {
        "updates": point.updates,
        "images": point.images,
        "seconds": point.seconds,
        "training_loss": point.training_loss,
        "validation_loss": point.validation_loss,
        "pixel_accuracy": point.pixel_accuracy,
        "mean_iou": point.mean_iou,
        **{
            f"iou_{names[index] if index < len(names) else index}": iou
            for index, iou in enumerate(point.class_iou)
        },
    }
