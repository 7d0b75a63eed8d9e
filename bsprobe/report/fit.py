"""The largest batch of a network on each GPU: text, files and a picture."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bsprobe.analysis.caveats import ASSUMED
from bsprobe.records.failures import Outcome
from bsprobe.records.fits import Fitting
from bsprobe.records.printable import shell_line
from bsprobe.records.units import GIB, format_bytes
from bsprobe.report.commands import matrix_defaults, quoted, subject_options
from bsprobe.report.escaping import cleaned, code_span, inline, paragraph
from bsprobe.report.markdown import table
from bsprobe.report.run.plots import COLOURS, MARKERS, STYLE, legend_name, write_figure
from bsprobe.report.run.sentences import row_names, subject_line
from bsprobe.report.run.tables import to_csv, variant_columns
from bsprobe.report.run.terminal import WIDTH, aligned
from bsprobe.storage.codec import to_text
from bsprobe.storage.files import write_atomically

_ROW_INCHES = 0.24
_NOTHING = "-"
_PREDICTED = "  [predicted]"
_LARGEST = "The largest batch predicted to run, with allocator retries if needed:"
_LEGEND = (
    f"{_NOTHING}: not even the smallest batch fits. usable: the memory that PyTorch reports, part "
    "of which CUDA and its libraries use. bsprobe run also gives the safe batch, which leaves "
    "memory free and needs no retries."
)


def rows(found: Fitting) -> list[tuple[str, ...]]:
    """Return one row a card: its name, its usable memory, the largest batch of each variant."""
    return [
        (
            card.name,
            format_bytes(card.total_bytes),
            *(found.fit_of(card, v).largest_words or _NOTHING for v in found.variants),
        )
        for card in found.cards
    ]


def render_text(found: Fitting) -> str:
    """Return the table for a terminal; the parts of a variant's name are stacked to fit it."""
    found = cleaned(found)
    names = [name.split(" / ") for name in row_names(found.variants).values()]
    depth = max(len(parts) for parts in names)
    head = [[""] * (depth - len(parts)) + parts for parts in (["GPU"], ["usable"], *names)]
    lines = list(zip(*head, strict=True))
    table = aligned([*lines, *rows(found)])
    below = [textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in advice(found)]
    legend = textwrap.fill(_LEGEND, WIDTH)
    return "\n".join([title(found), _LARGEST, "", table, "", legend, "", *below])


def title(found: Fitting) -> str:
    """Return the title of the table: the network, its inputs and the shared settings."""
    return f"{subject_line(found.variants)}{_PREDICTED}"


def advice(found: Fitting) -> list[str]:
    """Return the smallest card of each variant that runs the wanted batch, and the notes."""
    batch = found.wanted_batch or 1
    answers = []
    for variant, name in row_names(found.variants).items():
        enough = [card for card in found.cards if (found.largest(card, variant) or 0) >= batch]
        if not enough:
            answers.append((f"no listed card runs batch {batch}.", name))
            continue
        usable = format_bytes(enough[0].total_bytes)
        answer = (
            f"batch {batch} runs from {enough[0].name} ({usable} usable) upwards, on {len(enough)} "
            f"of {len(found.cards)} cards."
        )
        answers.append((answer, name))
    lines = [f"{', '.join(names)}: {text}" for text, names in _names_by(answers).items()]
    return [*lines, *_kernel_limits(found), *_assumptions(found), *_of_cards(found)]


def next_command(found: Fitting) -> str:
    """Return the `bsprobe run` command for the smallest card that runs the wanted batch."""
    variants = found.variants
    batch = found.wanted_batch or 1
    largest = {c: max(found.largest(c, v) or 0 for v in variants) for c in found.cards}
    card = next((card for card in found.cards if largest[card] >= batch), found.cards[-1])
    options = subject_options(variants, matrix_defaults(variants))
    return shell_line(["bsprobe", "run", "--gpu", card.name, *options])


def _kernel_limits(found: Fitting) -> list[str]:
    """Sentences about cards on which a 32-bit limit of a kernel ends the search."""
    lines = []
    for variant, name in row_names(found.variants).items():
        limited = [
            fit
            for fit in found.fits
            if fit.variant == variant and fit.next_outcome is Outcome.KERNEL_LIMIT
        ]
        if limited:
            cards = "card" if len(limited) == 1 else "cards"
            lines.append(
                f"{name}: on {len(limited)} {cards} a kernel limit (2^31 elements), not memory, "
                f"ends the search at batch {limited[0].largest}."
            )
    return lines


def _assumptions(found: Fitting) -> list[str]:
    """The assumptions of the predictions, with the variants that they are about unless all are."""
    names = row_names(found.variants)
    made = _names_by(
        (ASSUMED[each], names[fit.variant]) for fit in found.fits for each in fit.assumptions
    )
    return [
        sentence if len(those) == len(names) else f"{', '.join(those)}: {sentence}"
        for sentence, those in made.items()
    ]


def _of_cards(found: Fitting) -> list[str]:
    """Notes on cards, with the names of the cards that they are about unless all are."""
    named = _names_by(
        (note, fit.gpu.name) for fit in found.fits for note in (*fit.gpu.notes, *fit.notes)
    )
    return [
        note if len(names) == len(found.cards) else f"{', '.join(names)}: {note}"
        for note, names in named.items()
    ]


def _names_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by sentence, from pairs of a sentence and a name."""
    found: dict[str, list[str]] = {}
    for sentence, name in dict.fromkeys(pairs):
        found.setdefault(sentence, []).append(name)
    return found


def write_fitting(found: Fitting, folder: Path) -> None:
    """Write `fit.json`, `fit.csv`, `fit.md` and the picture.

    Raises:
        FileError: A file cannot be written.
    """
    write_atomically(folder / "fit.json", to_text(found))
    write_atomically(folder / "fit.csv", to_csv(_frame(found)))
    with mpl.rc_context(STYLE):
        write_figure(figure(found), folder / "fit")
    write_atomically(folder / "fit.md", render_markdown(found).encode())


def render_markdown(found: Fitting) -> str:
    """Return the report."""
    found = cleaned(found)
    again = code_span(quoted(found.environment.command))
    header = ("GPU", "usable", *row_names(found.variants).values())
    return (
        f"# Which GPU do I need?\n\n{paragraph(subject_line(found.variants))}{_PREDICTED}\n\n"
        + "\n".join(f"- {paragraph(line)}" for line in advice(found))
        + f"\n\n{_LARGEST}\n\n{table(header, rows(found))}\n\n{_LEGEND}\n\n"
        "![largest batch by card](fit.png)\n\n"
        "The sources of the cards' memory are in `bsprobe gpus --format csv`.\n\n"
        f"PyTorch {inline(found.environment.torch)}, "
        f"cuDNN {inline(str(found.environment.cudnn))}. Again: {again}\n"
    )


def figure(found: Fitting) -> Figure:
    """Draw one row a card, the smallest at the bottom, and a mark at each largest batch."""
    found = cleaned(found)
    cards, variants = found.cards, found.variants
    drawn = Figure(figsize=(8.0, 1.4 + _ROW_INCHES * len(cards)), layout="constrained")
    axes = drawn.subplots()
    for index, (variant, name) in enumerate(row_names(variants).items()):
        points = [(found.largest(card, variant), row) for row, card in enumerate(cards)]
        known = [(batch, row) for batch, row in points if batch is not None]
        # Marks of equal batches must not hide each other.
        offset = (index - (len(variants) - 1) / 2) * 0.16
        axes.plot(
            [batch for batch, _ in known],
            [row + offset for _, row in known],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            label=legend_name(name),
            ms=4.5,
        )
    if found.wanted_batch is not None:
        axes.axvline(found.wanted_batch, color="#444444", lw=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(cards)), [f"{c.name}  {c.total_bytes / GIB:.1f}" for c in cards])
    axes.set_ylim(-0.7, len(cards) - 0.3)
    axes.set_xlabel("largest batch, predicted")
    axes.set_title(f"{title(found)}\ncard, and its usable GiB", fontsize=9, loc="left")
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawn


def _frame(found: Fitting) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "source": "predicted",
                "gpu": fit.gpu.name,
                "compute_capability": fit.gpu.compute_capability,
                "usable_bytes": fit.gpu.total_bytes,
                "allocator_bytes": fit.gpu.allocator_bytes,
                **variant_columns(fit.variant),
                "largest": fit.largest,
                "next_outcome": None if fit.next_outcome is None else str(fit.next_outcome),
            }
            for fit in found.fits
        ],
        dtype=object,
    )
