"""An explanation as markdown and as terminal text."""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from bsprobe.records.explanations import (
    NOT_ATTRIBUTED,
    RECORDED_SNAPSHOT,
    SNAPSHOT,
    Explanation,
    ExplanationReport,
    Row,
    by_kind,
    by_module,
    by_operator,
)
from bsprobe.records.units import format_bytes
from bsprobe.report.commands import quoted
from bsprobe.report.escaping import (
    Markdown,
    cleaned,
    code_cell,
    inline,
    paragraph,
)
from bsprobe.report.explain import changes, sentences, verdict
from bsprobe.report.explain.places import where
from bsprobe.report.markdown import environment_section, folded, table
from bsprobe.report.run.terminal import WIDTH, aligned

_REMEDY_COLUMNS = (
    "change",
    "largest batch",
    "per image",
    "saved per image",
    "peak at batch {}",
    "cost",
)
_OF_CHANGES = (
    "Each change is applied alone. Peaks above the card's memory are simulated on a card without a "
    "limit. *x N*: N accumulated micro-batches, for any N."
)


_LEAST_COST = 20
"""Characters of the last column at least, even if the table is then wider than a terminal."""


class _View(Protocol):
    """A breakdown of an explanation: by kind, by operator, by module."""

    def __call__(self, explanation: Explanation, *, beside: Explanation | None) -> list[Row]:
        """Return its rows."""


def render(report: ExplanationReport, *, plots: Sequence[str], measured: Sequence[str] = ()) -> str:
    """Return the whole report.

    Args:
        report: The explanation with its remedies.
        plots: Names, without suffix, of the predicted pictures: by kind, then by module.
        measured: Names of the measured pictures.
    """
    report = cleaned(report)
    found, side = report.explanation, report.measured
    batch, depth = found.spec.batch_size, report.depth
    of, mark = sentences.source(report), "" if side is None else "Predicted: "
    parts = [
        f"# Where the memory goes: {inline(sentences.subject(report))} ({of})",
        f"**Measured.** {inline(verdict.measured(side, found))}" if side is not None else "",
        f"**{mark}{verdict.title(report)}** {inline(verdict.why(report))}",
        f"**{mark}What takes the memory.** {inline(verdict.what(report))}",
        f"**{mark}What to change.** {inline(changes.what_helps(report))}",
        *[f"> {paragraph(note)}" for note in sentences.notes(report)],
        *_pictures("kind", plots[:1], measured[:1]),
        _remedies(report),
        f"## By kind, at the peak of batch {batch}\n\n{_rows(by_kind, report)}",
        _meaning(report),
        _line(found),
        f"## By module\n\n{_rows(partial(by_module, depth=1), report)}",
        folded(f"Down to depth {depth}", _rows(partial(by_module, depth=depth), report))
        if depth > 1
        else "",
        *_pictures("module", plots[1:2], measured[1:2]),
        f"## By operator\n\n{_rows(by_operator, report)}",
        _snapshots(report),
        environment_section(side.device if side else report.device, report.environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_terminal(report: ExplanationReport) -> str:
    """Return the main figures as text that fits 80 columns."""
    return f"{render_memory(report)}\n{render_changes(report)}"


def render_memory(report: ExplanationReport) -> str:
    """Return the first part of `render_terminal`, which needs no remedies."""
    report = cleaned(report)
    found, side = report.explanation, report.measured
    shown, beside = _sides(report)
    marks = f"{sentences.source(report)}{sentences.assumed(report.device)}"
    fourth = "per image" if beside is None else "predicted"
    kinds = [("at the peak", "bytes" if beside is None else "measured", "share", fourth)]
    for row in sentences.rows_shown(by_kind(shown, beside), shown):
        cells = _cells(row, shown, beside)
        kinds.append((cells[0], cells[1], cells[2], cells[-1] if beside is None else cells[3]))
    verdicts = [] if side is None else [f"Measured: {verdict.measured(side, found)}"]
    verdicts += [f"{_mark(report)}{say(report)}" for say in (verdict.why, verdict.what)]
    verdicts += sentences.notes_on_network(report)
    parts = [
        textwrap.fill(f"{sentences.subject(report)}  [{marks}]", WIDTH),
        "\n".join(map(_filled, verdicts)),
        aligned(kinds),
    ]
    return "\n\n".join(parts) + "\n"


def render_changes(report: ExplanationReport) -> str:
    """Return the second part of `render_terminal`: the remedies."""
    report = cleaned(report)
    batch = report.explanation.spec.batch_size
    change = "change" if report.measured is None else "change (predicted)"
    helps = [(change, "largest", f"at batch {batch}", "cost")]
    helps += [
        (
            each.name,
            changes.batch_words(each),
            changes.peak_words(each),
            each.cost,
        )
        for each in changes.helping(report)
    ]
    parts = [
        _filled(f"{_mark(report)}{changes.what_helps(report)}"),
        _left_at_the_end(helps) if len(helps) > 1 else "",
        _filled(changes.without_gain(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _mark(report: ExplanationReport) -> str:
    return "" if report.measured is None else "Predicted: "


def _filled(text: str) -> str:
    # Options are not broken at their hyphens.
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _sides(report: ExplanationReport) -> tuple[Explanation, Explanation | None]:
    """The explanation that is shown first, and the prediction beside a measured one."""
    found = sentences.recorded(report)
    return (report.explanation, None) if found is None else (found, report.explanation)


def _pictures(what: str, predicted: Sequence[str], measured: Sequence[str]) -> list[str]:
    """The pictures, the measured one first; named by source if there are two."""
    named = [("measured", name) for name in measured] + [("predicted", name) for name in predicted]
    return [
        f"![Memory over one step by {what}{f', {source}' if measured else ''}]({name}.png)"
        for source, name in named
    ]


def _left_at_the_end(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Columns as `aligned` makes them, but for the last one: left-aligned and wrapped."""
    numbers = aligned([row[:3] for row in rows]).splitlines()
    width = max(len(line) for line in numbers)
    lines: list[str] = []
    for line, row in zip(numbers, rows, strict=True):
        first, *more = textwrap.wrap(row[3], max(_LEAST_COST, WIDTH - width - 2)) or [""]
        lines.append(f"{line.ljust(width)}  {first}".rstrip())
        lines += [f"{'':{width}}  {part}" for part in more]
    return "\n".join(lines)


def _remedies(report: ExplanationReport) -> str:
    """The table of the changes that bring something, and one line on the others."""
    if not report.are_remedies_known:
        return ""
    found = report.explanation
    header = [name.format(found.spec.batch_size) for name in _REMEDY_COLUMNS]
    rows = [
        (
            "as it is",
            Markdown(f"**{changes.largest_words(report.boundary)}**"),
            format_bytes(found.per_image_bytes) if found.scales else "-",
            "",
            format_bytes(found.peak_bytes),
            "",
        )
    ]
    for each in changes.helping(report):
        per_image = "-" if each.per_image_bytes is None else format_bytes(each.per_image_bytes)
        rows.append(
            (
                code_cell(quoted(each.command)),
                Markdown(f"**{changes.batch_words(each)}**"),
                per_image,
                changes.saved_per_image(each, found),
                changes.peak_words(each),
                each.cost,
            )
        )
    parts = (
        "## Changes, predicted by the search of `bsprobe run`",
        # Words read better from the left.
        table(header, rows).replace("--: |\n", "--- |\n", 1),
        paragraph(changes.without_gain(report)),
        _OF_CHANGES,
    )
    return "\n\n".join(part for part in parts if part)


def _rows(view: _View, report: ExplanationReport) -> str:
    found, beside = _sides(report)
    predicted = report.explanation
    arithmetic = ("= fixed", f"+ {found.spec.batch_size} x per image")
    peak = Markdown("**peak**")
    total = (Markdown(f"**{format_bytes(found.peak_bytes)}**"), "100%")
    slope = (
        format_bytes(predicted.fixed_bytes) if predicted.scales else "-",
        format_bytes(predicted.per_image_bytes) if predicted.scales else "-",
    )
    shown = [
        (_indented(row), *_cells(row, found, beside)[1:])
        for row in sentences.rows_shown(view(found, beside=beside), found)
    ]
    if beside is None:
        header: tuple[str, ...] = ("", "bytes", "share", *arithmetic)
        return table(header, [*shown, (peak, *total, *slope)])
    header = ("", "measured", "share", "predicted", *arithmetic)
    return table(header, [*shown, (peak, *total, format_bytes(beside.peak_bytes), *slope)])


def _indented(row: Row) -> Markdown:
    """The name of a row, indented by its depth in the tree."""
    return Markdown("&nbsp;" * 4 * row.depth + inline(row.name))


def _cells(row: Row, found: Explanation, beside: Explanation | None) -> tuple[str, ...]:
    predicted = found if beside is None else beside
    size = row.size_bytes if beside is None else row.predicted_bytes
    each = row.per_image_bytes if predicted.scales else None
    return (
        row.name,
        format_bytes(row.size_bytes),
        sentences.share(row, found),
        *(() if beside is None else (format_bytes(row.predicted_bytes),)),
        "-" if each is None else format_bytes(size - predicted.spec.batch_size * each),
        "-" if each is None else format_bytes(each),
    )


def _meaning(report: ExplanationReport) -> str:
    found, beside = _sides(report)
    words = (
        "*Saved activations* are made in the forward pass and needed in the backward pass; "
        "*workspace* is memory that a kernel uses while it runs, such as cuDNN's; *rounding and "
        "fragmentation* is memory that PyTorch has reserved (at most "
        f"{format_bytes(found.peak_reserved_bytes)}) beyond the requests at the peak. It follows "
        "no line, so it is neither fixed nor per image."
        + ("" if report.explanation.line else " The workspace counts as fixed.")
    )
    if beside is None:
        return words
    return (
        f"{words}\n\nThe measured sizes are those of the requests that PyTorch recorded on the "
        "GPU. Each has the kind, module and operator of the predicted request that it matches in "
        f"the order of the step; *{NOT_ATTRIBUTED}* are requests without a match. The last two "
        "columns split the prediction."
    )


def _line(found: Explanation) -> str:
    """The table that compares the line with the peaks of other batches."""
    if not found.scales or not found.line:
        return ""
    rows = [
        (
            str(point.batch),
            format_bytes(found.fixed_bytes + point.batch * found.per_image_bytes),
            format_bytes(point.used_bytes),
            format_bytes(point.fragmentation_bytes),
            where(point),
        )
        for point in found.line
    ]
    header = ("batch", "the line", "in use at its peak", "rounding and fragmentation", "its peak")
    return (
        f"## Batches\n\n{table(header, rows)}\n\nThe line is at the moment of the step at which "
        f"batch {found.spec.batch_size} takes the most. What tensors take grows evenly with the "
        "batch. The workspace need not: its line goes through this batch, as near to the others as "
        "it can. The peaks of the other batches are simulated on a card without a limit."
    )


def _snapshots(report: ExplanationReport) -> str:
    words = (
        f"## In PyTorch's own viewer\n\n`{SNAPSHOT}` holds the set-up and two steps as a memory "
        "snapshot, each allocation with its module, operator, phase and kind. Drop it on "
        "<https://pytorch.org/memory_viz>, or make a page of it:\n\n"
        f"```sh\npython -m torch.cuda._memory_viz trace_plot {SNAPSHOT} -o snapshot.html\n```"
    )
    if sentences.recorded(report) is None:
        return words
    return (
        f"{words}\n\nThat snapshot is predicted. `{RECORDED_SNAPSHOT}` was recorded by PyTorch on "
        "the GPU: all steps of the trial, each allocation with its Python stack (none in the "
        "backward pass)."
    )
