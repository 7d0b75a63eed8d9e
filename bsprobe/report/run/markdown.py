"""The report as markdown: the answer first, the evidence below, the log folded away."""

from collections.abc import Sequence

from bsprobe.analysis.recommendation import search_trials
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import DeviceInfo, Environment, Run, VariantResult
from bsprobe.records.trials import Source, Trial
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.records.variants import labels
from bsprobe.report.explain import sentences as explain_sentences
from bsprobe.report.run import advice, sentences

EXPLAINED = "step-by-kind"
"""The picture of memory over one step of the starred row, where there is one."""


def render(run: Run, *, plots: Sequence[str], snippet: str | None) -> str:
    """The whole report.

    Args:
        run: What is reported.
        plots: Names, without suffix, of the plots beside the report.
        snippet: Python to train with, or None where nothing can be recommended.
    """
    models = ", ".join(dict.fromkeys(v.model for v in run.settings.variants))
    parts = [
        f"# {models} on {run.device.name} ({sentences.origin(run.device)})",
        f"**{sentences.answer(run)}**",
        *[f"> {warning}" for warning in sentences.portrait_warnings(run.settings.variants)],
        _recommendation(run),
        _predictions(run),
        _caveats(run),
        *[f"![{name}]({name}.png)" for name in plots if name != EXPLAINED],
        _memory(run, plots),
        _advice(run),
        _snippet(run, snippet),
        folded(f"Trial log{sentences.of_whom(run.device)}", _trial_log(run)),
        environment_section(run.device, run.environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column left-aligned, the others right-aligned."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _recommendation(run: Run) -> str:
    names = labels(run.settings.variants)
    header = (
        "", "largest", "safe", "best", "use: micro x accumulation", "effective", "learning rate",
        "peak", "images/s", "without accumulation",
    )  # fmt: skip
    rows = [_row(run, result, names[result.variant]) for result in run.results]
    return (
        f"## {sentences.wanted(run.settings)}"
        f"{sentences.of_whom(run.device)}\n\n{table(header, rows)}\n\n"
        f"{_meaning(run)}"
    )


def _meaning(run: Run) -> str:
    """The meaning of the columns of the recommendation."""
    is_measured = run.device.source is Source.MEASURED
    largest = "ran, and one more did not" if is_measured else "should run, and one more should not"
    plan = (
        "run as it stands, its gradients accumulated,"
        if is_measured
        else ("predicted as it stands, its gradients accumulated,")
    )
    timed = (
        " *Images/s* are of its median step, from which others differed by the share after ±."
        if is_measured
        else ""
    )
    return (
        f"*Largest* {largest}. *Safe* leaves {run.settings.target.headroom:.0%} of the memory "
        f"free, by the {run.device.source} peaks{_where_not_run(run)}. *Best* is the smallest "
        f"batch within 2 % of the best throughput up to safe. *Use* was {plan} before it was "
        f"written here.{timed} The star marks the best setting within one norm: another norm is "
        "another model, not a speed-up."
        + _together(run)
        + "".join(f" {sentence}" for sentence in sentences.about_recipe(run.settings))
    )


def _where_not_run(run: Run) -> str:
    """The addition for a run in which a safe batch did not run: those made before it had to."""
    for result in run.results:
        ran = {trial.spec.batch_size for trial in search_trials(run.trials, result.variant)}
        if result.recommendation is not None and result.recommendation.safe not in ran:
            return ", interpolated where it was not run itself"
    return ""


def _together(run: Run) -> str:
    """The addition to the meaning of the columns for several processes."""
    if run.settings.processes == 1:
        return ""
    images = ", *images/s* are of all" if run.device.source is Source.MEASURED else ""
    return (
        f" *Largest*, *safe*, *best* and *peak* are of one of the {run.settings.processes} "
        f"processes, the one that takes most, against the smallest capacity{images}."
    )


def _row(run: Run, result: VariantResult, name: str) -> tuple[str, ...]:
    item, boundary = result.recommendation, result.boundary
    if item is None:
        return (f"{name}: {sentences.verdict(boundary)}", *["-"] * 9)
    alone, target = item.without_accumulation, run.settings.target
    rate, rate_alone = (sentences.rate_words(p, item.variant, target) for p in (item.plan, alone))
    return (
        ("★ " if item.starred else "") + name,
        str(item.largest) if boundary.is_exact else f"≥ {item.largest} ({boundary.stop})",
        str(item.safe),
        str(item.best) + ("" if item.best_is_measured else " (= safe: no throughput)"),
        sentences.plan_words(item.plan),
        str(item.plan.effective_batch),
        rate,
        sentences.peak_share(item, run.device),
        sentences.throughput(item),
        f"{alone.micro_batch} at {rate_alone}, {alone.updates} updates",
    )


def _predictions(run: Run) -> str:
    """Predictions that guided the search, each beside the measurement."""
    names = labels(run.settings.variants)
    said = {r.variant: sentences.predicted_beside_measured(run, r) for r in run.results}
    lines = [f"- **{names[variant]}**: {text}" for variant, text in said.items() if text]
    return "## Predicted and measured\n\n" + "\n".join(lines) if lines else ""


def _caveats(run: Run) -> str:
    names = labels(run.settings.variants)
    lines = [f"- {sentence}" for sentence in sentences.amp_against_fp32(run)]
    for result in run.results:
        item = result.recommendation
        if item is not None:
            lines += [f"- **{names[result.variant]}**: {text}" for text in item.caveats]
            by_group = [f"{name} {rate:.2e}" for name, rate in item.plan.group_learning_rates]
            rates = ", ".join(by_group) or item.plan.rate_formula
            lines.append(
                f"- **{names[result.variant]}**: {item.plan.lr_rule} rule; rates {rates}; poly 0.9 "
                f"over {item.plan.updates} updates, {item.plan.warmup_updates} of them warming up."
            )
        else:
            reason = advice.without_recommendation(result)
            lines.append(f"- **{names[result.variant]}**: {reason}")
    lines.append("- Learning-rate rules are starting points, not promises (Shallue et al. 2019).")
    return "## What to know\n\n" + "\n".join(lines)


def _memory(run: Run, plots: Sequence[str]) -> str:
    """The memory of the starred row by kind, or how to find out; of a GPU alone."""
    item = run.best
    if item is None or run.device.kind is DeviceKind.CPU:
        return ""
    name = labels(run.settings.variants)[item.variant]
    is_here = run.device.source is Source.MEASURED
    how = "measured, and predicted beside it," if is_here else "predicted"
    shown = f"![One step of {name}]({EXPLAINED}.png)\n\n" if EXPLAINED in plots else ""
    if run.settings.processes > 1:  # `bsprobe explain` is about one process that trains alone
        return f"## Where the memory goes\n\n{shown}".rstrip() if shown else ""
    accumulated = ", without its accumulation" if item.plan.accumulation_steps > 1 else ""
    return (
        f"## Where the memory goes\n\n{shown}What fills the memory of {name} at micro-batch "
        f"{item.plan.micro_batch}{accumulated}, and what would give a larger batch, is "
        f"{how} by:\n\n```sh\n{explain_sentences.command(run, item)}\n```"
    )


def _advice(run: Run) -> str:
    rows = sentences.common_advice(run)
    return (
        "## Common advice, and what was found\n\n" + table(("advice", "found"), rows)
        if rows
        else ""
    )


def _snippet(run: Run, snippet: str | None) -> str:
    if snippet is None or run.best is None:
        return ""
    code = f"```python\n{snippet}```"
    return "## Train with it\n\nAlso in `snippet.py`.\n\n" + folded(
        f"{labels(run.settings.variants)[run.best.variant]} as Python", code
    )


def _trial_log(run: Run) -> str:
    names = labels(run.settings.variants)
    header: tuple[str, ...] = (
        "variant", "batch", "purpose", "outcome", "peak allocated", "peak reserved", "first step",
        "images/s", "took",
    )  # fmt: skip
    rows = [_log_row(trial, names[trial.spec.variant]) for trial in run.trials]
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


def _tracebacks(run: Run) -> list[str]:
    """The place in the code where each bug showed; running out of memory is none."""
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
    """The machine and the versions that made it, and the command to make it again."""
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
    """Text behind a line that is clicked on."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
