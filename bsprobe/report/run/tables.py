"""Records as tables, for CSV files and further analysis."""

import dataclasses
import io
import statistics
from typing import Any

import pandas as pd

from bsprobe.records.runs import DeviceInfo, Prediction, Run, VariantResult
from bsprobe.records.trials import Trial
from bsprobe.records.variants import AXES, Variant
from bsprobe.report.escaping import csv_cell
from bsprobe.report.run import notes, validation


def trials_table(run: Run) -> pd.DataFrame:
    """Return one row a trial, in the order they ran; bytes and seconds as in the records."""
    guides = {result.variant: result.prediction for result in run.results}
    return _frame(
        [
            {
                "device": run.device.name,
                **_trial_row(trial),
                "predicted_peak_bytes": _predicted_peak_bytes(trial, guides[trial.spec.variant]),
            }
            for trial in run.trials
        ]
    )


def recommendation_table(run: Run) -> pd.DataFrame:
    """Return one row a variant."""
    return _frame(
        [
            result_columns(run.device, result)
            | {"caveats": " | ".join(notes.texts(result, run)) or None}
            for result in run.results
        ]
    )


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV: UTF-8, with Unix line ends on every system, and no formulas."""
    cells = [[csv_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    escaped = pd.DataFrame(cells, columns=[csv_cell(name) for name in table], dtype=object)
    text = io.StringIO()
    escaped.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().encode()


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table of objects, so that integers stay integers if some are missing."""
    return pd.DataFrame(rows, dtype=object)


def variant_columns(variant: Variant) -> dict[str, Any]:
    """Return the settings of a variant, one column each; those of a user's command are unknown."""
    known = {axis.field: str(getattr(variant, axis.field)) for axis in variant.axes}
    return {
        "model": variant.network,
        "resolution": variant.inputs or None,
        **{axis.field: known.get(axis.field) for axis in AXES},
    }


def _trial_row(trial: Trial) -> dict[str, Any]:
    tried = validation.tried_with(trial)
    return {
        "source": str(trial.source),
        **variant_columns(trial.spec.variant),
        "batch_size": trial.spec.batch_size,
        "accumulation_steps": trial.spec.accumulation_steps,
        "processes": trial.processes,
        "ddp": str(trial.spec.ddp) if trial.spec.variant.axes else None,
        "rank": trial.rank,
        "purpose": str(trial.purpose),
        "fresh_process": trial.fresh_process,
        "outcome": str(trial.outcome),
        "budget_bytes": trial.budget_bytes,
        "validation": trial.spec.validation and trial.spec.validation.describe(),
        "validation_outcome": tried and str(tried.outcome),
        **_measurement_columns(trial),
        **_script_columns(trial),
        "failure": trial.failure.message if trial.failure else None,
        "failure_phase": trial.failure.phase if trial.failure else None,
        "started_at": trial.started_at,
        "wall_seconds": trial.wall_seconds,
    }


def _script_columns(trial: Trial) -> dict[str, Any]:
    """The facts of a user's command; trials of networks lack these columns."""
    facts = trial.script
    if facts is None:
        return {}
    return {
        "view": str(facts.view),
        "steps_seen": facts.steps,
        "limit": facts.limit and str(facts.limit),
        "script_torch": facts.torch,
        "script_python": facts.python,
        "script_optimizer": facts.optimizer,
        "script_learning_rates": " ".join(f"{rate:g}" for rate in facts.learning_rates) or None,
    }


def _predicted_peak_bytes(trial: Trial, guide: Prediction | None) -> int | None:
    """The predicted `peak_bytes` of a measured trial if a prediction guided the search.

    None with accumulation, for which the prediction has no peaks.
    """
    if guide is None or trial.spec.accumulation_steps > 1:
        return None
    return dict(guide.peaks).get(trial.spec.batch_size)


def _measurement_columns(trial: Trial) -> dict[str, Any]:
    """The figures of a trial; a trial that did not run has the same columns, empty."""
    measured = trial.measurement
    columns: dict[str, Any] = {
        "peak_bytes": measured and measured.peak_bytes,
        "peak_allocated_bytes": measured and measured.peak_allocated_bytes,
        "peak_reserved_bytes": measured and measured.peak_reserved_bytes,
    }
    tried = validation.tried_with(trial)
    for phase, peak in (
        ("first_step", measured and measured.first_step),
        ("steady", measured and measured.steady),
        ("validation", tried and tried.peak),
    ):
        columns[f"{phase}_allocated_bytes"] = peak and peak.allocated_bytes
        columns[f"{phase}_reserved_bytes"] = peak and peak.reserved_bytes
    for field in (
        "outside_allocator_bytes",
        "other_processes_bytes",
        "allocator_retries",
        "allocator_ooms",
        "updates_applied",
        "steps",
    ):
        columns[field] = measured and getattr(measured, field)
    ends = measured.allocated_after_steps if measured else ()
    columns["allocated_after_first_step_bytes"] = ends[0] if ends else None
    columns["allocated_after_last_step_bytes"] = ends[-1] if ends else None
    seconds = measured.step_seconds if measured else ()
    columns["step_seconds_median"] = statistics.median(seconds) if seconds else None
    columns["step_seconds_spread"] = max(seconds) - min(seconds) if seconds else None
    columns["images_per_second"] = measured and measured.images_per_second
    return columns


def result_columns(device: DeviceInfo, result: VariantResult) -> dict[str, Any]:
    """Return a variant's result on a device, one column a figure."""
    boundary, item = result.boundary, result.recommendation
    measured = item.trial.measurement if item and item.trial else None
    growth = result.growth[-1] if result.growth else None
    columns: dict[str, Any] = {
        "device": device.name,
        "source": str(device.source),
        **variant_columns(result.variant),
        "processes": item and item.plan.processes,
        "largest": boundary.largest,
        "first_failure": boundary.first_failure,
        "boundary": str(boundary.stop),
        "growth_bytes_per_step": growth and growth.bytes_per_step,
        "growth_batch": growth and growth.batch,
        "full_at_step": growth and growth.full_at_step,
        "predicted_largest": result.prediction and result.prediction.largest,
        "safe": item and item.safe,
        "best": item and item.best,
        "best_is_measured": item and item.best_is_measured,
    }
    for prefix, plan in (
        ("", item and item.plan),
        ("without_accumulation_", item and item.without_accumulation),
    ):
        values = dataclasses.asdict(plan) if plan else {}
        values["updates"], values["warmup_updates"] = (plan and plan.schedule) or (None, None)
        columns |= {
            prefix + name: values.get(name)
            for name in (
                "micro_batch",
                "accumulation_steps",
                "effective_batch",
                "learning_rate",
                "rate_formula",
                "lr_rule",
                "updates",
                "warmup_updates",
            )
        }
    columns["peak_bytes"] = measured and measured.peak_bytes
    tried = validation.tried_with(item.trial if item else None)
    columns["validation_outcome"] = tried and str(tried.outcome)
    columns["validation_peak_bytes"] = (
        tried and measured and tried.peak_bytes(measured.outside_allocator_bytes)
    )
    found = result.validation_boundary
    columns["largest_validation_batch"] = found and found.largest
    columns["capacity_bytes"] = device.capacity_bytes
    columns["images_per_second"] = measured and measured.images_per_second
    columns["recommended_outcome"] = str(item.trial.outcome) if item and item.trial else None
    columns["starred"] = bool(item and item.starred)
    columns["caveats"] = " | ".join(item.caveats) if item else None
    return columns
