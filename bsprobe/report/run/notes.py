"""Notes on the variants of a run, computed from its record."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bsprobe.analysis.caveats import notes_of
from bsprobe.analysis.memory_line import line_through
from bsprobe.analysis.notes import Lines, Note, joined
from bsprobe.analysis.recommendation import keeps_headroom, recipe_of, search_trials
from bsprobe.analysis.script_facts import notes_on_run
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import (
    Boundary,
    Recommendation,
    Run,
    Settings,
    VariantResult,
)
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Norm, Precision, Variant
from bsprobe.report.run import advice, sentences


def lines_of(run: Run) -> Lines:
    """Return the notes on the recommendations and on variants without one, each once."""
    names = sentences.row_names(run.settings.variants)
    found = [(names[r.variant], r.recommendation) for r in run.results]
    on_plans = ((name, note) for name, item in found if item for note in _of_item(run, item))
    return [
        *_amp_against_fp32(run),
        *joined(on_plans, [name for name, item in found if item]),
        *_joined_by_variant(run, advice.note_on_undecided),
        *_joined_by_variant(run, advice.note_on_slow_growth),
        *joined(
            (
                (names[result.variant], advice.note_on(run, result))
                for result in run.results
                if result.recommendation is None
            ),
            list(names.values()),
        ),
        *(((), str(note)) for note in notes_on_run(run)),
    ]


def schedules(run: Run) -> Lines:
    """Return the learning rates and schedules of the recommendations, equal ones once."""
    names = sentences.row_names(run.settings.variants)
    found = [(names[r.variant], r.recommendation) for r in run.results if r.recommendation]
    if run.settings.script is not None:
        return []  # the command to train with comes with its rate
    return joined(
        ((name, _schedule(item, run.settings)) for name, item in found),
        [name for name, _ in found],
    )


def predictions(run: Run) -> Lines:
    """Return the predictions that guided the searches beside the measurements."""
    return _joined_by_variant(run, _predicted)


def unguided(run: Run) -> Lines:
    """Return the reasons why no prediction guided the search."""
    return _joined_by_variant(run, _unguided)


def _joined_by_variant(run: Run, note_of: Callable[[Run, VariantResult], Note | None]) -> Lines:
    names = sentences.row_names(run.settings.variants)
    found = ((names[result.variant], note_of(run, result)) for result in run.results)
    return joined(((name, note) for name, note in found if note), list(names.values()))


def texts(result: VariantResult, run: Run) -> list[str]:
    """Return the notes on one recommendation as sentences."""
    item = result.recommendation
    return [] if item is None else [str(note) for note in _of_item(run, item)]


def _of_item(run: Run, item: Recommendation) -> Sequence[Note]:
    target = recipe_of(item.variant, run.settings.target)
    trials = search_trials(run.trials, item.variant)
    budget = target.budget_bytes(run.device.capacity_bytes)
    return notes_of(
        item,
        keeps_headroom=keeps_headroom(trials, item.safe, budget),
        trials=trials,
        target=target,
        device=run.device,
    )


def _schedule(item: Recommendation, settings: Settings) -> Note:
    plan = item.plan
    if plan.schedule is None or item.variant.own.optimizer is not None:
        rate = sentences.rate_words(plan, item.variant, settings.target)
        return Note(text=f"Learning rate by the {plan.lr_rule} rule: {{}}.", figure=rate)
    by_group = [f"{name} {rate:.2e}" for name, rate in plan.group_learning_rates]
    rates = ", ".join(by_group) or f"{plan.learning_rate:.2e}"
    updates, warmup = plan.schedule
    return Note(
        text=(
            f"Learning rates by the {plan.lr_rule} rule: {rates}. Poly schedule with power 0.9 "
            f"over {updates} updates, {f'{warmup} of them' if warmup else 'no'} warm-up."
        )
    )


def _predicted(run: Run, result: VariantResult) -> Note | None:
    prediction = result.prediction
    if prediction is None or prediction.largest is None:
        return None
    largest = sentences.predicted_largest(prediction, run.settings)
    figure = f"{largest} (measured {_measured_largest(result.boundary)}"
    if peak := _common_peak(run, result):
        batch, predicted, measured = peak
        figure += f"; peak at batch {batch} {predicted / measured - 1:+.1%}"
    return Note(text="Predicted largest batch: {}.", figure=f"{figure})")


def _unguided(run: Run, result: VariantResult) -> Note | None:
    prediction = result.prediction
    if prediction is None or prediction.largest is not None:
        return None
    return Note(text=f"{sentences.guided_by(prediction, run.settings)}.")


def prediction_rows(run: Run) -> list[tuple[str, ...]]:
    """Return the largest batches and peaks that were predicted and measured, as text.

    Returns:
        By variant: its name, both largest batches, the batch of the peaks, both peaks and the
        error of the predicted one.
    """
    names = sentences.row_names(run.settings.variants)
    rows = []
    for result in run.results:
        prediction = result.prediction
        if prediction is None or prediction.largest is None:
            continue
        largest = (
            sentences.predicted_largest(prediction, run.settings),
            _measured_largest(result.boundary),
        )
        cells: tuple[str, ...] = ("-",) * 4
        if peak := _common_peak(run, result):
            batch, expected, measured = peak
            error = f"{expected / measured - 1:+.1%}"
            cells = (str(batch), format_bytes(expected), format_bytes(measured), error)
        rows.append((names[result.variant], *largest, *cells))
    return rows


def _common_peak(run: Run, result: VariantResult) -> tuple[int, int, int] | None:
    """The largest batch with a predicted and a measured peak, and both peaks in bytes."""
    measured = {
        trial.spec.batch_size: trial.measurement.peak_bytes
        for trial in search_trials(run.trials, result.variant)
        if trial.measurement is not None and trial.outcome is Outcome.FITS
    }
    predicted = dict(result.prediction.peaks if result.prediction is not None else ())
    batch = max(measured.keys() & predicted.keys(), default=None)
    return None if batch is None else (batch, predicted[batch], measured[batch])


def _measured_largest(boundary: Boundary) -> str:
    if boundary.is_exact:
        return str(boundary.largest)
    return "none" if boundary.largest is None else f"at least {boundary.largest}"


def _amp_against_fp32(run: Run) -> Lines:
    """Sentences on the memory of GroupNorm under autocast, with the figures of this run."""
    names = sentences.row_names(run.settings.variants)
    found = {result.variant: result for result in run.results}
    notes = []
    for variant, result in found.items():
        rival = found.get(replace(variant, precision=Precision.FP32))
        if variant.norm is not Norm.GROUP or rival is None or rival is result:
            continue
        sizes = [_per_image_bytes(run, each.variant) for each in (result, rival)]
        if None in sizes or sizes[0] <= sizes[1]:  # type: ignore[operator] # not None here
            continue
        amp, fp32 = (format_bytes(size) for size in sizes if size is not None)
        remedy = found.get(replace(variant, norm=Norm.GROUP_AMP))
        size = _per_image_bytes(run, remedy.variant) if remedy is not None else None
        figure = f"{amp} against {fp32}"
        figure += f" ({format_bytes(size)} with group-amp)" if size is not None else ""
        text = f"With GroupNorm {variant.precision} takes more memory per image than fp32: {{}}."
        notes.append((names[variant], Note(text=text, figure=figure, is_general=True)))
    return joined(notes, list(names.values()))


def _per_image_bytes(run: Run, variant: Variant) -> int | None:
    """Bytes of one more image, from the two largest batches that ran without accumulation."""
    peaks = [
        (trial.spec.batch_size, trial.measurement.peak_allocated_bytes)
        for trial in search_trials(run.trials, variant)
        if trial.measurement is not None
    ]
    line = line_through(peaks)
    return None if line is None else round(line.per_image_bytes)
