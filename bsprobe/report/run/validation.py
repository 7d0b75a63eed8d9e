"""The validation after the training steps in words."""

from bsprobe.analysis.notes import Lines, Note, joined
from bsprobe.analysis.recommendation import search_trials
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Run, VariantResult
from bsprobe.records.trials import Measurement, Purpose, Source, Trial, Validated
from bsprobe.records.units import format_bytes
from bsprobe.report.run import sentences


def tried_with(trial: Trial | None) -> Validated | None:
    """Return the validation of a trial, or None if it has none."""
    measured = None if trial is None else trial.measurement
    return None if measured is None else measured.validation


def outcome(trial: Trial) -> str:
    """Return the images and the outcome of the validation of a trial: `validated 4: ok`.

    Empty if it ran as it should, except in a search for the largest validation batch.
    """
    tried, asked = tried_with(trial), trial.spec.validation
    is_searched = trial.purpose is Purpose.VALIDATION
    if tried is None or asked is None or (tried.fits and not is_searched):
        return ""
    return f"validated {asked.batch_size}: {sentences.outcome_words(tried.outcome)}"


def share(result: VariantResult, run: Run) -> str:
    """Return the cell of a variant: its peak as a share of the memory, or why it failed."""
    item = result.recommendation
    trial = None if item is None else item.trial
    tried = tried_with(trial)
    if trial is None or trial.measurement is None or tried is None:
        return "-"
    if not tried.fits:
        return "does not fit" if tried.outcome is Outcome.OUT_OF_MEMORY else "failed"
    return f"{_peak_bytes(trial.measurement, tried) / run.device.capacity_bytes:.0%}"


def largest(result: VariantResult) -> str:
    """Return the largest validation batch of a variant; `-` if it was not searched."""
    found = result.validation_boundary
    if found is None:
        return "-"
    return sentences.largest_words(found) if found.largest else sentences.verdict(found)


def lines_of(run: Run) -> Lines:
    """Return whether the validation fits beside training, a sentence each; equal ones once."""
    names = sentences.row_names(run.settings.variants)
    found = [(names[result.variant], _note(run, result)) for result in run.results]
    if not any(note for _, note in found):
        return [((), "Validation is judged beside a recommended step, and nothing is recommended.")]
    return joined(
        ((name, note) for name, note in found if note), [name for name, note in found if note]
    )


def answer(run: Run) -> str:
    """Return the sentence on the starred row; empty without a validation."""
    best = run.best_result
    note = None if best is None else _note(run, best)
    return "" if note is None else str(note)


def ladder(run: Run, result: VariantResult) -> list[str]:
    """Return the trials of the search for the largest validation batch, in their order."""
    words = []
    for trial in run.trials:
        tried = tried_with(trial)
        asked = trial.spec.validation
        if trial.spec.variant != result.variant or tried is None or asked is None:
            continue
        item = result.recommendation
        beside = None if item is None else (item.plan.micro_batch, item.plan.accumulation_steps)
        if (trial.spec.batch_size, trial.spec.accumulation_steps) == beside:
            words.append(f"{asked.batch_size} {sentences.outcome_words(tried.outcome)}")
    return words


def _note(run: Run, result: VariantResult) -> Note | None:
    item, asked = result.recommendation, run.settings.validation
    trial = None if item is None else item.trial
    tried = tried_with(trial)
    if asked is None or trial is None or tried is None or trial.measurement is None:
        return None
    images = f"{asked.batch_size} image{'s' if asked.batch_size > 1 else ''} of {asked.resolution}"
    micro = trial.spec.batch_size
    more = _largest_words(result)
    if tried.fits:
        fits = "fits" if trial.source is Source.MEASURED else "should fit"
        of = format_bytes(run.device.capacity_bytes)
        retried = tried.outcome is Outcome.FITS_WITH_RETRIES
        emptied = ", after the allocator has emptied its cache" if retried else ""
        return Note(
            text=f"Validation of {images} {fits} beside the recommended step{emptied}: of {of} it "
            f"takes, with all that training keeps, {{}}{more}.",
            figure=_taken(trial.measurement, tried),
        )
    if tried.outcome is not Outcome.OUT_OF_MEMORY:
        why = "" if tried.failure is None else f": {tried.failure.words.rstrip('.!')}"
        return Note(text=f"Validation of {images} failed{why}{more}.")
    fits = "does not fit" if trial.source is Source.MEASURED else "should not fit"
    return Note(
        text=f"Validation of {images} {fits} beside training with micro-batch {micro}; "
        f"{_smaller(run, result, micro)}{more}."
    )


def _smaller(run: Run, result: VariantResult, micro: int) -> str:
    """Return the largest smaller micro-batch beside which the validation fits."""
    fitting = [
        trial.spec.batch_size
        for trial in search_trials(run.trials, result.variant)
        if trial.spec.batch_size < micro and (tried := tried_with(trial)) and tried.fits
    ]
    if fitting:
        return f"it fits beside micro-batch {max(fitting)}"
    asked = run.settings.validation
    fewer = "fewer images at once, or " if asked is not None and asked.batch_size > 1 else ""
    beside = "it fits beside no smaller one: " if micro > 1 else ""
    return f"{beside}validate {fewer}in tiles"


def _taken(measured: Measurement, tried: Validated) -> str:
    """The peak of a validation, and how much it is beyond the peak of the training."""
    taken = _peak_bytes(measured, tried)
    beyond = taken - measured.peak_bytes
    more = f"{format_bytes(beyond)} more than" if beyond > 0 else "no more than"
    return f"{format_bytes(taken)} ({more} training)"


def _largest_words(result: VariantResult) -> str:
    found = result.validation_boundary
    if found is None or not found.largest:
        return ""
    least = "" if found.is_exact else "at least "
    return f"; the largest validation batch there is {least}{found.largest}"


def _peak_bytes(measured: Measurement, tried: Validated) -> int:
    peak = tried.peak_bytes(measured.outside_allocator_bytes)
    assert peak is not None  # noqa: S101 - it fits
    return peak
