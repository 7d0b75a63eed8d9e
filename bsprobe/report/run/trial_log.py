"""The log of all trials as markdown."""

from collections.abc import Callable

from bsprobe.analysis.script_facts import is_unseen
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Run
from bsprobe.records.trials import Failure, Source, Trial
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.report.escaping import code_span, inline, paragraph
from bsprobe.report.markdown import fenced, table
from bsprobe.report.run import script, sentences, validation

_UNKNOWN = "-"


def render(run: Run) -> str:
    """Return the table of the trials, their failures, and the tracebacks of bugs."""
    names = sentences.row_names(run.settings.variants)
    columns = _columns(run)
    rows = [[cell(trial) for cell in columns.values()] for trial in run.trials]
    failures = [
        _failure(names[trial.spec.variant], trial, trial.failure)
        for trial in run.trials
        if trial.failure is not None
    ]
    meaning = script.STEPS_SEEN if run.settings.script is not None else ""
    parts = [table(tuple(columns), rows), meaning, "\n".join(failures), *_tracebacks(run)]
    return "\n\n".join(part for part in parts if part)


def _failure(name: str, trial: Trial, failure: Failure) -> str:
    """One line on a failed trial."""
    begin = f"{name}, batch {trial.spec.batch_size}{_of_rank(trial)}, {failure.phase}"
    place = f", {inline(failure.place)}" if failure.place else ""
    return f"- {paragraph(begin)}: {code_span(failure.message)}{place}"


def _columns(run: Run) -> dict[str, Callable[[Trial], str]]:
    """The cells of the columns by their headings; a prediction has no images/s."""
    names = sentences.row_names(run.settings.variants)
    columns: dict[str, Callable[[Trial], str]] = {
        "variant": lambda trial: names[trial.spec.variant],
        "batch": _batch,
        "purpose": _purpose,
        "outcome": lambda trial: sentences.trial_words(trial) + script.unseen(trial),
        **({} if run.settings.script is None else {"peak": _peak}),
        "peak allocated": _allocated,
        "peak reserved": _reserved,
        "first step": _first_step,
    }
    if any(_rate(trial) != _UNKNOWN for trial in run.trials):
        columns["images/s"] = _rate
    if run.settings.script is not None:
        columns["steps seen"] = _steps_seen
    columns["took"] = lambda trial: format_seconds(trial.wall_seconds)
    if run.settings.validation is not None:
        columns["validation"] = _validation
    if any(trial.budget_bytes is not None for trial in run.trials):
        columns["allocator's budget"] = _budget
    return columns


def _batch(trial: Trial) -> str:
    steps = trial.spec.accumulation_steps
    return str(trial.spec.batch_size) + (f" x {steps}" if steps > 1 else "")


def _purpose(trial: Trial) -> str:
    # Every trial of a user's command is a new process.
    is_new = trial.fresh_process and trial.source is Source.MEASURED and trial.script is None
    return str(trial.purpose) + (", fresh process" if is_new else "")


def _peak(trial: Trial) -> str:
    measured = trial.measurement
    return _UNKNOWN if measured is None else format_bytes(measured.peak_bytes)


def _allocated(trial: Trial) -> str:
    measured = trial.measurement
    if measured is None:
        return _UNKNOWN
    return format_bytes(measured.peak_allocated_bytes) + _of_rank(trial)


def _reserved(trial: Trial) -> str:
    reserved = trial.measurement and trial.measurement.peak_reserved_bytes
    return format_bytes(reserved) if reserved else _UNKNOWN


def _first_step(trial: Trial) -> str:
    measured = trial.measurement
    if measured is None or is_unseen(trial):
        return _UNKNOWN
    return format_bytes(measured.first_step.allocated_bytes)


def _rate(trial: Trial) -> str:
    return sentences.rate_of(trial.measurement)


def _steps_seen(trial: Trial) -> str:
    return str(trial.script.steps) if trial.script and trial.script.steps else _UNKNOWN


def _validation(trial: Trial) -> str:
    """The peak of the validation of a trial, or its outcome."""
    tried, asked = validation.tried_with(trial), trial.spec.validation
    if tried is None or asked is None:
        return _UNKNOWN
    held = tried.peak_bytes(0)
    words = sentences.outcome_words(tried.outcome) if held is None else format_bytes(held)
    return f"{asked.batch_size}: {words}"


def _budget(trial: Trial) -> str:
    return _UNKNOWN if trial.budget_bytes is None else format_bytes(trial.budget_bytes)


def _of_rank(trial: Trial) -> str:
    return "" if trial.rank is None else f" (rank {trial.rank})"


def _tracebacks(run: Run) -> list[str]:
    """The tracebacks of failed trials, or the end of the output of a user's command.

    Running out of memory has none.
    """
    shown = (Outcome.FAILED, Outcome.TIMED_OUT)
    found = [
        trial.failure.traceback.rstrip()
        for trial in run.trials
        if trial.outcome in shown and trial.failure is not None and trial.failure.traceback
    ]
    return [fenced("text", text) for text in dict.fromkeys(found)]
