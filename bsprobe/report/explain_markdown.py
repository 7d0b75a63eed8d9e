"""An explanation as markdown and as terminal text."""

import textwrap
from collections.abc import Sequence

from bsprobe.explanation import (
    Explanation,
    ExplanationReport,
    Row,
    by_kind,
    by_module,
    by_operator,
)
from bsprobe.report import explain_sentences as sentences
from bsprobe.report.markdown import environment_section, folded, table
from bsprobe.report.terminal import WIDTH, aligned
from bsprobe.units import format_bytes

_REMEDY_COLUMNS = (
    "change",
    "largest batch",
    "per image",
    "saved per image",
    "peak at batch {}",
    "cost",
)


def render(report: ExplanationReport, *, depth: int, plots: Sequence[str]) -> str:
    """The whole report.

    Args:
        report: What is reported.
        depth: Of the tree of modules.
        plots: Names, without suffix, of the pictures beside the report.
    """
    found = report.explanation
    batch = found.spec.batch_size
    parts = [
        f"# Where the memory goes: {sentences.subject(report)} ({found.source})",
        f"**{_question(found)}** {sentences.why(report)}",
        f"**What fills the card.** {sentences.what(report)}",
        f"**What to change.** {sentences.what_helps(report)}",
        *[f"> {note}" for note in report.device.notes],
        f"![Memory over one step by kind]({plots[0]}.png)" if plots else "",
        f"## What would help, found by the search of `bsprobe run`\n\n{_remedies(report)}",
        f"## By kind, at the peak of batch {batch}\n\n{_rows(by_kind(found), found)}",
        _meaning(found),
        f"## By module\n\n{_rows(by_module(found, 1), found)}",
        folded(f"Down to depth {depth}", _rows(by_module(found, depth), found))
        if depth > 1
        else "",
        *[f"![Memory over one step by module]({name}.png)" for name in plots[1:2]],
        f"## By operator\n\n{_rows(by_operator(found), found)}",
        _snapshot(),
        environment_section(report.device, report.environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_terminal(report: ExplanationReport) -> str:
    """The essence as text that fits 80 columns."""
    found = report.explanation
    head = f"{sentences.subject(report)}  [{found.source}{sentences.assumed(report.device)}]"
    kinds = [("at the peak", "bytes", "share", "per image")]
    for row in sentences.rows_shown(by_kind(found), found):
        cells = _cells(row, found)
        kinds.append((cells[0], cells[1], cells[2], cells[4]))
    helps = [("change", "largest", "saved/image", "cost")]
    for each in report.remedies:
        cost = each.impossible or each.cost
        helps.append(
            (
                each.name,
                sentences.batch_words(each),
                sentences.saved_per_image(each, found),
                cost,
            )
        )
    verdicts = (sentences.why(report), sentences.what(report), sentences.what_helps(report))
    parts = [
        textwrap.fill(head, WIDTH),
        "\n".join(textwrap.fill(each, WIDTH, break_long_words=False) for each in verdicts),
        aligned(kinds),
        _left_at_the_end(helps),
    ]
    return "\n\n".join(parts) + "\n"


def _question(found: Explanation) -> str:
    return "Why the next batch does not fit." if found.fits else "Why it does not fit."


def _left_at_the_end(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """Columns as `aligned` makes them, the last one flush left and cut off at the margin."""
    numbers = aligned([row[:3] for row in rows]).splitlines()
    width = max(len(line) for line in numbers)
    lines = zip(numbers, rows, strict=True)
    room = WIDTH - width - 2
    return "\n".join(
        f"{line.ljust(width)}  {textwrap.shorten(row[3], room, placeholder=' ...')}"
        for line, row in lines
    )


def _remedies(report: ExplanationReport) -> str:
    found = report.explanation
    batch = found.spec.batch_size
    header = [name.format(batch) for name in _REMEDY_COLUMNS]
    rows = [
        (
            "as it is",
            f"**{report.boundary.largest or 'none'}**",
            format_bytes(found.per_image_bytes) if found.scales else "-",
            "",
            format_bytes(found.peak_bytes),
            "",
        )
    ]
    for each in report.remedies:
        peak = "-" if each.peak_bytes is None else format_bytes(each.peak_bytes)
        per_image = "-" if each.per_image_bytes is None else format_bytes(each.per_image_bytes)
        rows.append(
            (
                f"`{each.command}`",
                f"**{sentences.batch_words(each)}**",
                per_image,
                sentences.saved_per_image(each, found),
                peak,
                f"impossible: {each.impossible}" if each.impossible else each.cost,
            )
        )
    return (
        # Words read better from the left.
        table(header, rows).replace("--: |\n", "--- |\n", 1)
        + "\n\nEach change by itself. Where a peak exceeds the card it was played on one without "
        "end. *x N*: micro-batches that are accumulated, so that any multiple can be trained with."
    )


def _rows(rows: list[Row], found: Explanation) -> str:
    header = ("", "bytes", "share", "= fixed", f"+ {found.spec.batch_size} x per image")
    shown = [_cells(row, found) for row in sentences.rows_shown(rows, found)]
    total = (
        "**peak**",
        f"**{format_bytes(found.peak_bytes)}**",
        "100%",
        format_bytes(found.fixed_bytes) if found.scales else "-",
        format_bytes(found.per_image_bytes) if found.scales else "-",
    )
    return table(header, [*shown, total])


def _cells(row: Row, found: Explanation) -> tuple[str, str, str, str, str]:
    fixed = row.size_bytes - found.spec.batch_size * row.per_image_bytes
    return (
        "&nbsp;" * 4 * row.depth + row.name,
        format_bytes(row.size_bytes),
        sentences.share(row, found),
        format_bytes(fixed) if found.scales else "-",
        format_bytes(row.per_image_bytes) if found.scales else "-",
    )


def _meaning(found: Explanation) -> str:
    return (
        "*Saved activations* are made in the forward pass and needed in the backward pass; "
        "*workspace* is what a kernel takes while it runs, such as cuDNN's; *rounding and "
        f"fragmentation* is what PyTorch has reserved ({format_bytes(found.peak_reserved_bytes)} "
        "at the most) beyond what was asked for at the peak. Workspace and fragmentation count as "
        "fixed here, but change from batch to batch: cuDNN chooses among its algorithms anew."
    )


def _snapshot() -> str:
    return (
        "## In PyTorch's own viewer\n\n`snapshot.pickle` holds the set-up and two steps as a "
        "memory snapshot, each allocation with its module, operator, phase and kind. Drop it on "
        "<https://pytorch.org/memory_viz>, or make a page of it:\n\n"
        "```sh\npython -m torch.cuda._memory_viz trace_plot snapshot.pickle -o snapshot.html\n```"
    )
