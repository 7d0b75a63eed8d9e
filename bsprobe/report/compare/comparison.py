"""A comparison as text, as markdown, and as annotations of a pull request on GitHub."""

import textwrap

from bsprobe.analysis.compare import Check, Comparison, State
from bsprobe.analysis.thresholds import BATCHES, Metric
from bsprobe.records.errors import BsprobeError
from bsprobe.records.runs import Environment
from bsprobe.records.scripts import Script
from bsprobe.records.units import format_bytes, format_rate
from bsprobe.records.variants import Variant, labels
from bsprobe.report.escaping import (
    Markdown,
    cleaned,
    code_span,
    command_data,
    command_property,
    inline,
    paragraph,
)
from bsprobe.report.markdown import table
from bsprobe.report.run.terminal import WIDTH, aligned

_COLUMNS = ("metric", "batch", "baseline", "run", "change", "allowed", "verdict")
_MOST_ANNOTATIONS = 10
"""GitHub shows so many annotations of each kind per step (docs.github.com, workflow commands)."""


def render(comparison: Comparison) -> str:
    """Return the comparison as plain text that fits 80 columns."""
    comparison = cleaned(comparison)
    device = comparison.device
    head = [
        f"{device.name} · {format_bytes(device.capacity_bytes)} usable  [{device.source}]",
        f"baseline: {_made_by(comparison.baseline)}",
        f"run:      {_made_by(comparison.run)}",
    ]
    head += [textwrap.fill(f"command:  {script}", WIDTH) for script in _scripts(comparison)]
    parts = ["\n".join(head), _text_table(comparison)]
    parts += [textwrap.fill(f"Note  {note}", WIDTH) for note in comparison.notes]
    parts.append(textwrap.fill(verdict(comparison), WIDTH))
    return "\n\n".join(parts) + "\n"


def markdown(comparison: Comparison) -> str:
    """Return the comparison as markdown, for `$GITHUB_STEP_SUMMARY` or a comment."""
    comparison = cleaned(comparison)
    device = comparison.device
    names = _names(comparison)
    rows = [
        (names[check.variant], *cells[:-1], _bold(cells[-1]) if check.fails else cells[-1])
        for check in comparison.checks
        for cells in [_cells(check)]
    ]
    explained = [(names[c.variant], why) for c in comparison.checks if (why := _explanation(c))]
    sentences = [f"- {paragraph(f'{name}: {why}')}" for name, why in dict.fromkeys(explained)]
    origin = (
        f"{paragraph(device.name)}, {format_bytes(device.capacity_bytes)} usable, "
        f"**{device.source}**. Baseline: {inline(_made_by(comparison.baseline))}. "
        f"Run: {inline(_made_by(comparison.run))}."
        + "".join(f" Command: {code_span(str(script))}." for script in _scripts(comparison))
    )
    parts = [
        f"## bsprobe: {verdict(comparison)}",
        origin,
        table(("variant", *_COLUMNS), rows),
        "\n".join([*sentences, *[f"- {paragraph(note)}" for note in comparison.notes]]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def annotations(comparison: Comparison) -> str:
    """Return workflow commands: errors for failed checks, warnings for those within noise."""
    comparison = cleaned(comparison)
    names = _names(comparison)
    failing = comparison.failing
    shown = failing if len(failing) <= _MOST_ANNOTATIONS else failing[: _MOST_ANNOTATIONS - 1]
    lines = [_annotation("error", names, check) for check in shown]
    if len(shown) < len(failing):
        rest = f"{len(failing) - len(shown)} more; the job's summary has all of them"
        lines.append(workflow_command("error", title="bsprobe", text=rest))
    doubtful = [check for check in comparison.checks if check.state is State.WITHIN_NOISE]
    lines += [_annotation("warning", names, check) for check in doubtful[:_MOST_ANNOTATIONS]]
    if not failing:
        lines.append(workflow_command("notice", title="bsprobe", text=verdict(comparison)))
    return "\n".join(lines) + "\n"


def error_annotation(error: BsprobeError) -> str:
    """Return an error that prevented the comparison, as a workflow command."""
    text = f"{error}\nhint: {error.hint}" if error.hint else str(error)
    return workflow_command("error", title="bsprobe", text=text) + "\n"


def workflow_command(kind: str, *, title: str, text: str) -> str:
    """Return `::error title=…::…`, escaped for GitHub.

    Args:
        kind: `error`, `warning` or `notice`.
        title: The title of the annotation.
        text: Its text.

    Source:
        `command.ts` of github.com/actions/toolkit.
    """
    return f"::{kind} title={command_property(title)}::{command_data(text)}"


def verdict(comparison: Comparison) -> str:
    """Return the outcome of all checks in one sentence."""
    count, failing = len(comparison.checks), len(comparison.failing)
    checks = "1 check" if count == 1 else f"{count} checks"
    if not failing:
        return f"nothing regressed in {checks}"
    missing = sum(check.state is State.MISSING for check in comparison.failing)
    absent = f", {missing} of them because a figure is missing" if missing else ""
    return f"{failing} of {checks} failed{absent}"


def _text_table(comparison: Comparison) -> str:
    """The checks under the name of their variant, all in the same columns."""
    names = _names(comparison)
    rows = [_COLUMNS, *[_cells(check) for check in comparison.checks]]
    header, *lines = aligned([(f"  {first}", *rest) for first, *rest in rows]).splitlines()
    text = [header]
    variant = None
    for check, line in zip(comparison.checks, lines, strict=True):
        if check.variant != variant:
            variant, said = check.variant, ""
            text.append(names[variant])
        text.append(line)
        explanation = _explanation(check)
        if explanation and explanation != said:
            indent = " " * 6
            text.append(
                textwrap.fill(explanation, WIDTH, initial_indent=indent, subsequent_indent=indent)
            )
        said = explanation
    return "\n".join(text)


def _cells(check: Check) -> tuple[str, ...]:
    metric = check.threshold.metric
    return (
        str(metric),
        check.at or "-",
        _figure(check.baseline, metric),
        _figure(check.run, metric),
        _change(check),
        check.threshold.describe(),
        str(check.state),
    )


def _figure(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    if metric in BATCHES:
        return f"{value:.0f}"
    return f"{format_rate(value)}/s" if metric is Metric.THROUGHPUT else format_bytes(value)


def _change(check: Check) -> str:
    if check.baseline is None or check.run is None:
        return "-"
    change = check.run - check.baseline
    if check.threshold.metric in BATCHES:
        return f"{change:+.0f}"
    return f"{change / check.baseline:+.1%}" if check.baseline else "-"


def _explanation(check: Check) -> str:
    if check.detail:
        return check.detail
    if check.state is State.WITHIN_NOISE:
        noise = _figure(check.noise, check.threshold.metric)
        return f"worse than allowed, but equal trials differ by up to {noise}"
    return ""


def _annotation(kind: str, names: dict[Variant, str], check: Check) -> str:
    metric, name = check.threshold.metric, names[check.variant]
    figures = ""
    if check.baseline is not None and check.run is not None:
        figures = (
            f"{_figure(check.baseline, metric)} -> {_figure(check.run, metric)} "
            f"({_change(check)}, allowed {check.threshold.describe()})"
        )
        figures += f" at batch {check.at}" if check.at else ""
    text = "; ".join(part for part in (figures, _explanation(check)) if part)
    return workflow_command(kind, title=f"bsprobe: {metric} {check.state}", text=f"{name}: {text}")


def _names(comparison: Comparison) -> dict[Variant, str]:
    return labels(list(dict.fromkeys(check.variant for check in comparison.checks)))


def _scripts(comparison: Comparison) -> list[Script]:
    """The user's command that both runs ran, if they ran one."""
    found = (check.variant.script for check in comparison.checks)
    return list(dict.fromkeys(script for script in found if script is not None))


def _made_by(environment: Environment) -> str:
    commit = f"{environment.commit}, " if environment.commit else ""
    torch = f", PyTorch {environment.torch}" if environment.torch else ""
    return f"{commit}{environment.started_at}{torch}"


def _bold(text: str) -> Markdown:
    return Markdown(f"**{inline(text)}**")
