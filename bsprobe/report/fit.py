"""The GPU that a network needs: its largest batch on each card, in text, files, picture."""

import shlex
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
from bsprobe.records.units import GIB, format_bytes
from bsprobe.records.variants import labels
from bsprobe.report.commands import matrix_defaults, subject_options
from bsprobe.report.run.markdown import table
from bsprobe.report.run.plots import COLOURS, MARKERS, STYLE, write_figure
from bsprobe.report.run.tables import to_csv, variant_columns
from bsprobe.report.run.terminal import WIDTH, aligned
from bsprobe.storage.codec import to_text
from bsprobe.storage.files import write_atomically

_ROW_INCHES = 0.24
_NOTHING = "-"


def rows(found: Fitting) -> list[tuple[str, ...]]:
    """One row a card: its name, what it offers, the largest batch of each variant."""
    return [
        (
            card.name,
            format_bytes(card.total_bytes),
            *(found.fit_of(card, v).largest_words or _NOTHING for v in found.variants),
        )
        for card in found.cards
    ]


def render_text(found: Fitting) -> str:
    """The table for a terminal: the variants' names stand above each other, to fit 80 columns."""
    names = [label.split(" / ") for label in labels(found.variants).values()]
    depth = max(len(parts) for parts in names)
    head = [[""] * (depth - len(parts)) + parts for parts in (["GPU"], ["usable"], *names)]
    lines = list(zip(*head, strict=True))
    largest = "The largest batch:"
    table = aligned([*lines, *rows(found)])
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in advice(found)]
    return "\n".join([*titles(found), largest, "", table, "", *wrapped])


def titles(found: Fitting) -> list[str]:
    """The titles of the table."""
    one = found.variants[0]
    models = ", ".join(dict.fromkeys(v.network for v in found.variants))
    sizes = ", ".join(dict.fromkeys(v.described_inputs for v in found.variants))
    classes = "" if one.own.batches else f" · {one.described_classes}"
    return [f"{models} · {sizes}{classes}  [predicted]"]


def advice(found: Fitting) -> list[str]:
    """The smallest card of each variant that runs the batch that was asked for, or any."""
    batch = found.wanted_batch or 1
    lines = []
    for variant, name in labels(found.variants).items():
        enough = [card for card in found.cards if (found.largest(card, variant) or 0) >= batch]
        if not enough:
            lines.append(f"{name}: no listed card runs batch {batch}.")
            continue
        card = enough[0]
        lines.append(
            f"{name}: batch {batch} runs from {card.name} ({format_bytes(card.total_bytes)} "
            f"usable) upwards, on {len(enough)} of {len(found.cards)} cards."
        )
    return [*lines, *_kernel_limits(found), *_assumptions(found), *_of_cards(found)]


def next_command(found: Fitting) -> str:
    """The command that predicts the same in full for the smallest card that is enough."""
    variants = found.variants
    batch = found.wanted_batch or 1
    largest = {c: max(found.largest(c, v) or 0 for v in variants) for c in found.cards}
    card = next((card for card in found.cards if largest[card] >= batch), found.cards[-1])
    options = subject_options(variants, matrix_defaults(variants))
    return shlex.join(["bsprobe", "run", "--gpu", card.name, *options])


def _kernel_limits(found: Fitting) -> list[str]:
    """Sentences about cards where no memory would help: a kernel counts with 32 bits."""
    lines = []
    for variant, name in labels(found.variants).items():
        limited = [
            fit
            for fit in found.fits
            if fit.variant == variant and fit.next_outcome is Outcome.KERNEL_LIMIT
        ]
        if limited:
            cards = "card" if len(limited) == 1 else "cards"
            lines.append(
                f"{name}: on {len(limited)} {cards} batch {limited[0].largest} is the last for "
                "another reason than memory: a kernel counts no further (2^31 elements)."
            )
    return lines


def _assumptions(found: Fitting) -> list[str]:
    """The assumptions that were made, each behind the variants that it was made of."""
    names = labels(found.variants)
    made = _names_by(
        (ASSUMED[each], names[fit.variant]) for fit in found.fits for each in fit.assumptions
    )
    return [f"{', '.join(those)}: {sentence}" for sentence, those in made.items()]


def _of_cards(found: Fitting) -> list[str]:
    """Notes on some of the cards, each sentence once, behind their names."""
    named = _names_by(
        (note, fit.gpu.name) for fit in found.fits for note in (*fit.gpu.notes, *fit.notes)
    )
    return [
        note if len(names) == len(found.cards) else f"{', '.join(names)}: {note}"
        for note, names in named.items()
    ]


def _names_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that each sentence is about, from pairs of both; each name once."""
    found: dict[str, list[str]] = {}
    for sentence, name in dict.fromkeys(pairs):
        found.setdefault(sentence, []).append(name)
    return found


def write_fitting(found: Fitting, folder: Path) -> None:
    """Write `fit.json`, `fit.csv`, `fit.md` and the picture.

    Raises:
        FileError: The disk does not take it.
    """
    write_atomically(folder / "fit.json", to_text(found))
    write_atomically(folder / "fit.csv", to_csv(_frame(found)))
    with mpl.rc_context(STYLE):
        write_figure(figure(found), folder / "fit")
    write_atomically(folder / "fit.md", render_markdown(found).encode())


def render_markdown(found: Fitting) -> str:
    """The report."""
    header = ("card", "usable", *labels(found.variants).values())
    return (
        f"# Which GPU do I need?\n\n{titles(found)[0]}\n\n"
        + "\n".join(f"- {line}" for line in advice(found))
        + "\n\nThe largest batch of each card, predicted without it:\n\n"
        + table(header, rows(found))
        + "\n\n![largest batch by card](fit.png)\n\n"
        "*Usable* is the card's memory as PyTorch reports it, of which a part lies outside its "
        "allocator; the sources of both are in `bsprobe gpus --format csv`.\n\n"
        f"PyTorch {found.environment.torch}, cuDNN {found.environment.cudnn}. "
        f"Again: `{found.environment.command}`\n"
    )


def figure(found: Fitting) -> Figure:
    """One row a card, the smallest at the bottom; one mark a variant, at its largest batch."""
    cards, variants = found.cards, found.variants
    drawn = Figure(figsize=(8.0, 1.4 + _ROW_INCHES * len(cards)), layout="constrained")
    axes = drawn.subplots()
    for index, (variant, name) in enumerate(labels(variants).items()):
        points = [(found.largest(card, variant), row) for row, card in enumerate(cards)]
        known = [(batch, row) for batch, row in points if batch is not None]
        # Marks of equal batches lie beside, not upon, each other.
        offset = (index - (len(variants) - 1) / 2) * 0.16
        axes.plot(
            [batch for batch, _ in known],
            [row + offset for _, row in known],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            label=name,
            ms=4.5,
        )
    if found.wanted_batch is not None:
        axes.axvline(found.wanted_batch, color="#444444", lw=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(cards)), [f"{c.name}  {c.total_bytes / GIB:.1f}" for c in cards])
    axes.set_ylim(-0.7, len(cards) - 0.3)
    axes.set_xlabel("largest batch, predicted")
    axes.set_title("\n".join(titles(found)) + "\ncard, and its usable GiB", fontsize=9, loc="left")
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
