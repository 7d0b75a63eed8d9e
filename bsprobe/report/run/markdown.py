"""The report of a run as markdown: the answer first, then the evidence and a folded log."""

from collections.abc import Sequence

from bsprobe.analysis.script_facts import facts_of
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import Boundary, Run, VariantResult
from bsprobe.records.trials import Source
from bsprobe.records.variants import labels
from bsprobe.report.escaping import cleaned, inline, paragraph, picture_name
from bsprobe.report.explain import sentences as explain_sentences
from bsprobe.report.markdown import environment_section, fenced, folded, table
from bsprobe.report.run import (
    legend,
    notes,
    script,
    sentences,
    train_with,
    trial_log,
    validation,
)

EXPLAINED = "step-by-kind"
"""The picture of memory over one step of the starred row."""


def render(run: Run, *, plots: Sequence[str], snippet: str | None) -> str:
    """Return the whole report.

    Args:
        run: The run.
        plots: Names, without suffix, of the plots beside the report.
        snippet: Python to train with; None if nothing is recommended.
    """
    run = cleaned(run)
    variants = run.settings.variants
    models = ", ".join(dict.fromkeys(v.model for v in variants))
    answers = (sentences.answer(run), validation.answer(run))
    parts = [
        f"# {paragraph(f'{models} on {run.device.name} ({sentences.origin(run.device)})')}",
        f"**{inline(' '.join(filter(None, answers)))}**",
        *[f"> {paragraph(warning)}" for warning in sentences.portrait_warnings(variants)],
        *_subject(run),
        _recommendation(run),
        _predictions(run),
        _notes(run),
        *[f"![{name}]({name}.png)" for name in plots if name != EXPLAINED],
        _memory(run, plots),
        _snippet(run, snippet),
        _command(run),
        folded(f"Trial log{sentences.of_whom(run.device)}", trial_log.render(run)),
        environment_section(run.device, run.environment, script=facts_of(run.trials)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _subject(run: Run) -> list[str]:
    """The network, or a user's command, and what holds for the whole run."""
    line, facts = sentences.subject_line(run.settings.variants), sentences.facts(run)
    if run.settings.script is not None:
        return [fenced("sh", line), paragraph(" ".join(facts))]
    return [paragraph(" ".join([f"{line}.", *facts]))]


_VARIANT, _STAR = "", "*"
_COLUMNS = {
    "largest": "largest batch",
    "safe": "safe batch",
    "best": "best batch",
    "use": "use: micro-batch x accumulation",
    "effective": "effective batch",
    "LR": "learning rate",
    "peak": "peak memory",
    "validation": "validation",
    "validation batch": "largest validation batch",
    "images/s": "images/s",
    "alone": "without accumulation",
}
"""The headings of the recommendation by the names of its columns."""


def _recommendation(run: Run) -> str:
    names = sentences.row_names(run.settings.variants)
    shown = _shown(run)
    rows = [
        (_named(run, result, names[result.variant]), *(_cells(run, result)[each] for each in shown))
        for result in run.results
    ]
    header = (_VARIANT, *(_COLUMNS[each] for each in shown))
    title = paragraph(f"{sentences.wanted(run)}{sentences.of_whom(run.device)}")
    return f"## {title}\n\n{table(header, rows)}\n\n{_meaning(run, shown)}"


def _shown(run: Run) -> list[str]:
    """The columns that say something: a prediction has no throughput, hence no best batch."""
    items = [result.recommendation for result in run.results if result.recommendation]
    left_out = set()
    if not any(item.best_is_measured for item in items):
        left_out.add("best")
    if run.settings.validation is None:
        left_out.add("validation")
    if not run.settings.seeks_validation_batch:
        left_out.add("validation batch")
    if all(sentences.throughput(item) == "-" for item in items):
        left_out.add("images/s")
    if all(item.plan == item.without_accumulation for item in items):
        left_out.add("alone")
    return [name for name in _COLUMNS if name not in left_out]


def _meaning(run: Run, shown: Sequence[str]) -> str:
    """The meaning of the columns of the recommendation."""
    if run.best is None:
        return ""
    terms = {*shown, *([_STAR] if len(run.results) > 1 else [])}
    lines = [
        f"- {'★' if term == _STAR else f'*{term.capitalize()}*'}: {inline(f'{meaning}.')}"
        for term, meaning in legend.meanings(run, terms)
    ]
    lines += [f"- {paragraph(each)}" for each in legend.about_recipe(run.settings)]
    return "\n".join(lines)


def _named(run: Run, result: VariantResult, name: str) -> str:
    """The name of a row; a star marks the best of its norm, unless there is only one row."""
    if result.recommendation is None:
        return f"{name}: {sentences.result_words(result)}"
    name += script.mark(run, result)
    return f"★ {name}" if result.recommendation.starred and len(run.results) > 1 else name


def _largest(boundary: Boundary) -> str:
    if boundary.is_exact:
        return f"{boundary.largest}"
    return f">= {boundary.largest} ({boundary.stop})"


def _cells(run: Run, result: VariantResult) -> dict[str, str]:
    """A row of the recommendation, by the names of its columns."""
    item, boundary = result.recommendation, result.boundary
    if item is None:
        known = {} if boundary.largest is None else {"largest": _largest(boundary)}
        return dict.fromkeys(_COLUMNS, "-") | known
    alone, target = item.without_accumulation, run.settings.target
    rate, rate_alone = (sentences.rate_words(p, item.variant, target) for p in (item.plan, alone))
    has_updates = alone.schedule is not None and item.variant.axes
    updates = f", {alone.known_updates} updates" if has_updates else ""
    return {
        "largest": _largest(boundary),
        "safe": str(item.safe),
        "best": str(item.best) if item.best_is_measured else "-",
        "use": sentences.plan_words(item.plan),
        "effective": str(item.plan.effective_batch),
        "LR": rate,
        "peak": sentences.peak_share(item, run.device),
        "validation": validation.share(result, run),
        "validation batch": validation.largest(result),
        "images/s": sentences.throughput(item),
        "alone": f"{alone.micro_batch} at {rate_alone}{updates}",
    }


def _predictions(run: Run) -> str:
    """The predictions that guided the search, each beside the measurement."""
    rows = notes.prediction_rows(run)
    if not rows:
        return ""
    header = (
        "", "predicted largest", "measured largest", "at batch", "predicted peak", "measured peak",
        "error",
    )  # fmt: skip
    return f"## Predicted and measured\n\n{table(header, rows)}"


def _notes(run: Run) -> str:
    on_validation = validation.lines_of(run) if len(run.results) > 1 else []
    found = [
        *on_validation,
        *notes.lines_of(run),
        *notes.unguided(run),
        *notes.schedules(run),
    ]
    lines = [
        f"- **{inline(', '.join(names))}**: {inline(sentence)}"
        if names
        else f"- {paragraph(sentence)}"
        for names, sentence in found
    ]
    if run.best is not None:
        lines.append(
            "- The learning-rate rules are heuristics: tune from there (Shallue et al. 2019)."
        )
    return "## What to know\n\n" + "\n".join(lines)


def _memory(run: Run, plots: Sequence[str]) -> str:
    """The memory of the starred row by kind and the command that explains it; only for GPUs."""
    item = run.best
    if item is None or run.device.kind is DeviceKind.CPU or run.settings.script is not None:
        return ""
    name = labels(run.settings.variants)[item.variant]
    is_here = run.device.source is Source.MEASURED
    how = "measured and predicted" if is_here else "predicted"
    picture = f"![One step of {picture_name(name)}]({EXPLAINED}.png)\n\n"
    shown = picture if EXPLAINED in plots else ""
    if run.settings.processes > 1:  # `bsprobe explain` is about one process that trains alone
        return f"## Where the memory goes\n\n{shown}".rstrip() if shown else ""
    accumulated = ", without its accumulation" if item.plan.accumulation_steps > 1 else ""
    return (
        f"## Where the memory goes\n\n{shown}What fills the memory of {inline(name)} at "
        f"micro-batch {item.plan.micro_batch}{accumulated}, and what would allow a larger batch, "
        f"is {how} by:\n\n{fenced('sh', explain_sentences.command(run, item))}"
    )


def _snippet(run: Run, snippet: str | None) -> str:
    if snippet is None or run.best is None:
        return ""
    code = fenced("python", snippet.removesuffix("\n"))
    return "## Train with it\n\nAlso in `snippet.py`.\n\n" + folded(
        f"{labels(run.settings.variants)[run.best.variant]} as Python", code
    )


def _command(run: Run) -> str:
    """The command to train with and what it leaves to the user; empty for networks."""
    if run.settings.script is None or run.best is None:
        return ""
    said = " ".join(train_with.explanation(run.best, run.settings.script, run.settings))
    words = train_with.command(run.settings.script, run.best.plan)
    return f"## Train with it\n\n{paragraph(said)}\n\n{fenced('sh', words)}"
