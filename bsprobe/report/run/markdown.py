"""The report of a run as markdown: the answer first, then the evidence and a folded log."""

from collections.abc import Sequence

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Boundary, DeviceInfo, Environment, Run, VariantResult
from bsprobe.records.trials import Source, Trial
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.records.variants import labels
from bsprobe.report.explain import sentences as explain_sentences
from bsprobe.report.run import legend, notes, sentences, validation

EXPLAINED = "step-by-kind"
"""The picture of memory over one step of the starred row."""


def render(run: Run, *, plots: Sequence[str], snippet: str | None) -> str:
    """Return the whole report.

    Args:
        run: The run.
        plots: Names, without suffix, of the plots beside the report.
        snippet: Python to train with; None if nothing is recommended.
    """
    variants = run.settings.variants
    models = ", ".join(dict.fromkeys(v.model for v in variants))
    parts = [
        f"# {models} on {run.device.name} ({sentences.origin(run.device)})",
        f"**{' '.join(filter(None, (sentences.answer(run), validation.answer(run))))}**",
        *[f"> {warning}" for warning in sentences.portrait_warnings(variants)],
        " ".join(
            [
                f"{sentences.subject_line(variants)}.",
                *sentences.facts(run.device, run.settings),
            ]
        ),
        _recommendation(run),
        _predictions(run),
        _notes(run),
        *[f"![{name}]({name}.png)" for name in plots if name != EXPLAINED],
        _memory(run, plots),
        _snippet(run, snippet),
        folded(f"Trial log{sentences.of_whom(run.device)}", _trial_log(run)),
        environment_section(run.device, run.environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table: the first column left-aligned, the others right-aligned."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_VARIANT, _STAR = "", "*"
_LOGGED_RATE = 7
"""The column of images/s in the log of trials; a prediction has none."""
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
    return (
        f"## {sentences.wanted(run.settings)}"
        f"{sentences.of_whom(run.device)}\n\n{table(header, rows)}\n\n"
        f"{_meaning(run, shown)}"
    )


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
        f"- {'★' if term == _STAR else f'*{term.capitalize()}*'}: {meaning}."
        for term, meaning in legend.meanings(run, terms)
    ]
    return "\n".join([*lines, *(f"- {each}" for each in legend.about_recipe(run.settings))])


def _named(run: Run, result: VariantResult, name: str) -> str:
    """The name of a row; a star marks the best of its norm, unless there is only one row."""
    if result.recommendation is None:
        return f"{name}: {sentences.result_words(result)}"
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
    updates = "" if alone.schedule is None else f", {alone.schedule[0]} updates"
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
        f"- **{', '.join(names)}**: {sentence}" if names else f"- {sentence}"
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
    if item is None or run.device.kind is DeviceKind.CPU:
        return ""
    name = labels(run.settings.variants)[item.variant]
    is_here = run.device.source is Source.MEASURED
    how = "measured and predicted" if is_here else "predicted"
    shown = f"![One step of {name}]({EXPLAINED}.png)\n\n" if EXPLAINED in plots else ""
    if run.settings.processes > 1:  # `bsprobe explain` is about one process that trains alone
        return f"## Where the memory goes\n\n{shown}".rstrip() if shown else ""
    accumulated = ", without its accumulation" if item.plan.accumulation_steps > 1 else ""
    return (
        f"## Where the memory goes\n\n{shown}What fills the memory of {name} at micro-batch "
        f"{item.plan.micro_batch}{accumulated}, and what would allow a larger batch, is "
        f"{how} by:\n\n```sh\n{explain_sentences.command(run, item)}\n```"
    )


def _snippet(run: Run, snippet: str | None) -> str:
    if snippet is None or run.best is None:
        return ""
    code = f"```python\n{snippet}```"
    return "## Train with it\n\nAlso in `snippet.py`.\n\n" + folded(
        f"{labels(run.settings.variants)[run.best.variant]} as Python", code
    )


def _trial_log(run: Run) -> str:
    names = sentences.row_names(run.settings.variants)
    header: tuple[str, ...] = (
        "variant", "batch", "purpose", "outcome", "peak allocated", "peak reserved", "first step",
        "images/s", "took",
    )  # fmt: skip
    rows = [_log_row(trial, names[trial.spec.variant]) for trial in run.trials]
    if all(row[_LOGGED_RATE] == "-" for row in rows):
        header = header[:_LOGGED_RATE] + header[_LOGGED_RATE + 1 :]
        rows = [row[:_LOGGED_RATE] + row[_LOGGED_RATE + 1 :] for row in rows]
    if run.settings.validation is not None:
        header = (*header, "validation")
        rows = [(*row, _validation(trial)) for row, trial in zip(rows, run.trials, strict=True)]
    if any(trial.budget_bytes is not None for trial in run.trials):
        header = (*header, "allocator's budget")
        rows = [(*row, _budget(trial)) for row, trial in zip(rows, run.trials, strict=True)]
    failures = [
        f"- {names[t.spec.variant]}, batch {t.spec.batch_size}{_of_rank(t)}, {t.failure.phase}: "
        f"`{t.failure.message}`" + (f", {t.failure.place}" if t.failure.place else "")
        for t in run.trials
        if t.failure is not None
    ]
    parts = [table(header, rows), "\n".join(failures), *_tracebacks(run)]
    return "\n\n".join(part for part in parts if part)


def _validation(trial: Trial) -> str:
    """The peak of the validation of a trial, or its outcome."""
    tried, asked = validation.tried_with(trial), trial.spec.validation
    if tried is None or asked is None:
        return "-"
    held = tried.peak_bytes(0)
    words = sentences.outcome_words(tried.outcome) if held is None else format_bytes(held)
    return f"{asked.batch_size}: {words}"


def _tracebacks(run: Run) -> list[str]:
    """The tracebacks of failed trials; running out of memory has none."""
    found = [
        trial.failure.traceback.rstrip()
        for trial in run.trials
        if trial.outcome is Outcome.FAILED and trial.failure is not None and trial.failure.traceback
    ]
    return [f"```text\n{text}\n```" for text in dict.fromkeys(found)]


def _log_row(trial: Trial, name: str) -> tuple[str, ...]:
    measured, spec = trial.measurement, trial.spec
    batch = str(spec.batch_size)
    if spec.accumulation_steps > 1:
        batch += f" x {spec.accumulation_steps}"
    reserved = measured and measured.peak_reserved_bytes
    return (
        name,
        batch,
        str(trial.purpose) + (", fresh process" if _is_new_process(trial) else ""),
        sentences.trial_words(trial),
        format_bytes(measured.peak_allocated_bytes) + _of_rank(trial) if measured else "-",
        format_bytes(reserved) if reserved else "-",
        format_bytes(measured.first_step.allocated_bytes) if measured else "-",
        sentences.rate_of(measured),
        format_seconds(trial.wall_seconds),
    )


def _budget(trial: Trial) -> str:
    return "-" if trial.budget_bytes is None else format_bytes(trial.budget_bytes)


def _of_rank(trial: Trial) -> str:
    return "" if trial.rank is None else f" (rank {trial.rank})"


def _is_new_process(trial: Trial) -> bool:
    return trial.fresh_process and trial.source is Source.MEASURED


def environment_section(device: DeviceInfo, environment: Environment) -> str:
    """Return the machine, the versions and the command of a report."""
    rows = [
        ("device", device.name),
        (
            "memory",
            f"{format_bytes(device.total_bytes)}, {format_bytes(device.capacity_bytes)} usable",
        ),
        ("driver", device.driver),
        ("compute capability", device.compute_capability),
        ("TF32 convolutions, matmuls", _pair(device.tf32_convolutions, device.tf32_matmuls)),
        ("PyTorch", environment.torch),
        ("torchvision", environment.torchvision),
        ("CUDA, cuDNN", f"{environment.cuda or '-'}, {environment.cudnn or '-'}"),
        ("PYTORCH_CUDA_ALLOC_CONF", environment.cuda_alloc_conf),
        ("Python", environment.python),
        ("system", environment.platform),
        ("CPU threads", str(environment.cpu_threads)),
        ("bsprobe", " ".join(filter(None, [environment.bsprobe, environment.commit]))),
        ("started", environment.started_at),
    ]
    known = [(name, value) for name, value in rows if value]
    return f"{table(('', ''), known)}\n\nAgain: `{environment.command}`"


def _pair(one: bool | None, other: bool | None) -> str | None:  # noqa: FBT001 - two facts to print
    if one is None or other is None:
        return None
    return f"{'on' if one else 'off'}, {'on' if other else 'off'}"


def folded(title: str, body: str) -> str:
    """Return text that is shown when its title is clicked on."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
