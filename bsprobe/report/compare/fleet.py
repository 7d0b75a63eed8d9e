"""The runs of a fleet beside each other: text, markdown and files."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bsprobe.analysis.fleet import Fleet, Row, Subject
from bsprobe.records.printable import shell_line
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.units import format_bytes, format_rate
from bsprobe.records.variants import Variant, labels
from bsprobe.report.compare.fleet_plot import write_fleet_plot
from bsprobe.report.escaping import (
    cleaned,
    code_cell,
    code_span,
    inline,
    paragraph,
)
from bsprobe.report.markdown import table
from bsprobe.report.run import sentences
from bsprobe.report.run.tables import result_columns, to_csv, variant_columns
from bsprobe.report.run.terminal import WIDTH, aligned, fitted
from bsprobe.storage.codec import to_text
from bsprobe.storage.files import write_atomically

NAME = "fleet"
"""The name of all files, without suffix."""
_COLUMNS = ("source", "largest", "safe", "use", "LR", "peak", "images/s")
_MEANING = (
    "*Largest batch*: one image more does not fit. *Safe batch*: leaves the headroom free. *Use*: "
    "the step that the run recommends. *Peak memory* and images/s are of that step, the peak as a "
    "share of the usable memory. ★: the best setting with its norm on that machine. Predictions "
    "have no images/s. The picture shows variants that were probed on more than one machine."
)


def render_text(fleet: Fleet) -> str:
    """Return the fleet as plain text that fits 80 columns."""
    fleet = cleaned(fleet)
    tables = [
        "\n".join(
            [
                textwrap.fill(subject.describe(), WIDTH, break_on_hyphens=False),
                textwrap.fill(f"For {_asked(fleet, subject)}:", WIDTH),
                _text_table(fleet, subject),
            ]
        )
        for subject in fleet.subjects
    ]
    notes = [textwrap.fill(f"Note  {n}", WIDTH, subsequent_indent="      ") for n in fleet.notes]
    return "\n\n".join([*tables, _text_runs(fleet), *["\n".join(notes)] * bool(notes)]) + "\n"


def render_markdown(fleet: Fleet) -> str:
    """Return the fleet as markdown, with the picture."""
    fleet = cleaned(fleet)
    header = (
        "variant", "machine", "source", "largest batch", "safe batch",
        "use: micro-batch x accumulation", "effective batch", "learning rate", "peak memory",
        "images/s per GPU",
    )  # fmt: skip
    parts = ["# The same training on several machines"]
    for subject in fleet.subjects:
        names = _names(fleet.rows_of(subject))
        rows = [_markdown_row(fleet, row, names) for row in fleet.rows_of(subject)]
        title = " ".join(subject.describe().split())  # a command may have line breaks
        parts.append(f"## {paragraph(title)}\n\nFor {inline(_asked(fleet, subject))}:")
        if not _is_timed(fleet.rows_of(subject)):
            parts.append(table(header[:-1], [cells[:-1] for cells in rows]))
            continue
        parts.append(table(header, rows))
    parts += [f"![largest batch by machine]({NAME}.png)", _MEANING]
    if fleet.notes:
        parts.append(
            "## What to know\n\n" + "\n".join(f"- {paragraph(note)}" for note in fleet.notes)
        )
    parts.append("## The runs\n\n" + _markdown_runs(fleet))
    return "\n\n".join(parts) + "\n"


def write_fleet(fleet: Fleet, folder: Path) -> None:
    """Write `fleet.json`, `fleet.csv`, `fleet.md` and the picture.

    Raises:
        FileError: A file cannot be written.
    """
    write_atomically(folder / f"{NAME}.json", to_text(fleet))
    write_atomically(folder / f"{NAME}.csv", to_csv(fleet_table(fleet)))
    write_fleet_plot(fleet, folder / NAME)
    write_atomically(folder / f"{NAME}.md", render_markdown(fleet).encode())


def fleet_table(fleet: Fleet) -> pd.DataFrame:
    """Return one row a variant and run, in bytes and seconds; rows not probed have no figures."""
    rows = []
    for row in fleet.rows:
        member = fleet.member(row.member)
        columns: dict[str, object] = {"device": member.device.name, "source": str(row.source)}
        columns |= variant_columns(row.variant)
        if row.result is not None:
            columns |= result_columns(member.device, row.result)
            columns["images_per_second_per_gpu"] = row.images_per_second_per_gpu
        facts = {"torch": member.environment.torch, "run": member.path}
        rows.append({"machine": row.member, "probed": row.result is not None, **columns, **facts})
    return pd.DataFrame(rows, dtype=object)


def _asked(fleet: Fleet, subject: Subject) -> str:
    """The wanted batch of a subject's runs."""
    members = {row.member for row in fleet.rows_of(subject)}
    batches = dict.fromkeys(
        sentences.wanted_batch(m.settings) for m in fleet.members if m.name in members
    )
    if len(batches) == 1:
        return next(iter(batches))
    return f"the wanted batch of each run ({', '.join(batches)})"


def _text_table(fleet: Fleet, subject: Subject) -> str:
    """The runs under the name of each variant, all in the same columns."""
    rows = fleet.rows_of(subject)
    names = _names(rows)
    lines = [
        (("* " if _is_starred(row) else "  ") + row.member, *_text_cells(fleet, row))
        for row in rows
    ]
    columns = [("", *_COLUMNS), *lines]
    text, *texts = fitted(columns if _is_timed(rows) else [cells[:-1] for cells in columns])
    variant = None
    for row, line in zip(rows, texts, strict=True):
        if row.variant != variant:
            variant = row.variant
            text += "\n" + textwrap.fill(names[variant], WIDTH, subsequent_indent="    ")
        text += "\n" + line
    return text


def _is_timed(rows: Sequence[Row]) -> bool:
    """Return whether any row has images/s; predicted ones have none."""
    return any(row.images_per_second_per_gpu is not None for row in rows)


def _text_cells(fleet: Fleet, row: Row) -> tuple[str, ...]:
    largest, safe, plan, _, rate, peak, images = _cells(fleet, row)
    return _source_words(row), largest, safe, plan, rate, peak, images


def _markdown_row(fleet: Fleet, row: Row, names: dict[Variant, str]) -> tuple[str, ...]:
    machine = ("★ " if _is_starred(row) else "") + row.member
    return names[row.variant], machine, _source_words(row), *_cells(fleet, row)


def _source_words(row: Row) -> str:
    return "not probed" if row.result is None else str(row.source)


def _cells(fleet: Fleet, row: Row) -> tuple[str, ...]:
    """Largest, safe, plan, effective batch, learning rate, peak and images/s a GPU, as text."""
    item = None if row.result is None else row.result.recommendation
    largest = "-" if row.result is None else _largest_words(row.result.boundary)
    if item is None:
        return (largest, *["-"] * 6)
    rate = row.images_per_second_per_gpu
    return (
        largest,
        str(item.safe),
        sentences.plan_words(item.plan),
        str(item.plan.effective_batch),
        sentences.short_rate_words(
            item.plan, item.variant, fleet.member(row.member).settings.target
        ),
        sentences.peak_share(item, fleet.member(row.member).device),
        "-" if rate is None else format_rate(rate),
    )


def _largest_words(boundary: Boundary) -> str:
    if boundary.largest is not None:
        return sentences.largest_words(boundary)
    if boundary.stop is StopReason.NOTHING_FITS:
        return "none"
    return "failed" if boundary.has_failed else "unknown"


def _is_starred(row: Row) -> bool:
    item = None if row.result is None else row.result.recommendation
    return item is not None and item.starred


def _names(rows: Sequence[Row]) -> dict[Variant, str]:
    return labels(list(dict.fromkeys(row.variant for row in rows)))


def _text_runs(fleet: Fleet) -> str:
    """Each run with its memory and PyTorch, its path below."""
    rows = [("The runs", "usable", "PyTorch")]
    rows += [
        (m.name, format_bytes(m.device.capacity_bytes), m.environment.torch or "-")
        for m in fleet.members
    ]
    head, *lines = aligned(rows).splitlines()
    paths = [f"{line}\n    {m.path}" for line, m in zip(lines, fleet.members, strict=True)]
    return "\n".join([head, *paths])


def _markdown_runs(fleet: Fleet) -> str:
    """The machine and the programs of each run."""
    header = ("machine", "usable", "source", "PyTorch", "cuDNN", "bsprobe", "started", "run")
    rows = [
        (
            member.name,
            format_bytes(member.device.capacity_bytes),
            str(member.device.source),
            member.environment.torch or "-",
            member.environment.cudnn or "-",
            " ".join(filter(None, [member.environment.bsprobe, member.environment.commit])),
            member.environment.started_at,
            code_cell(member.path),
        )
        for member in fleet.members
    ]
    again = shell_line(["bsprobe", "report", *(member.path for member in fleet.members)])
    return f"{table(header, rows)}\n\nAgain: {code_span(again)}"
