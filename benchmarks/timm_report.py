"""The part of the report of published.py that scores timm's benchmark: tables and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.published_data import rows_of
from bsprobe.records.runs import REFERENCE
from bsprobe.records.units import GIB, MIB

Row = Mapping[str, Any]

_CARD_BYTES: Final = 24268 * MIB
"""The total that PyTorch told of the card then: 23.70 GiB (huggingface/transformers, docs of
DeepSpeed). Newer drivers leave less: gpus.csv has the least that was seen."""

EXPLANATIONS: Final = {
    "cs3darknet_l": "The table's own: cs3sedarknet_l, the same network and squeeze-and-excitation, "
    "ran at 384 there.",
    "gluon_resnet152_v1s": "The table's own: seresnet152 ran at 192 there, whose 50 "
    "squeeze-and-excitations keep more than the wider stem of this one.",
    "resnetv2_101x1_bitm": "The table's own: resnetv2_101x3_bitm, the same network three times as "
    "wide, ran at 8 there, with as many activations and nine times the parameters.",
    "pit_s_224": "Not found. The peak is the end of the forward pass, a third of it the attention "
    "maps of the first two blocks, which at this batch, and not at the one below, take more than "
    "2^31 bytes each; timm of then ran the same operators there but for the place of one scaling, "
    "which keeps nothing.",
    "resnetv2_50d_evos": "Not found. EvoNorm is elementwise operators and a variance, no cuDNN; "
    "timm's code of it is the same as then, and so are the forward pass's operators on fake CUDA "
    "tensors. Four more networks with it are right.",
}
"""Findings on the misses, for those that a run may have."""
_FAR: Final = 0.05
"""Misses further than this from the limit are listed one by one."""
_LADDER: Final = (
    "The batch walked down a ladder (512, 384, 256, ...) until it ran. Right is the same rung: the "
    "batch that ran is predicted to run, the next one not to."
)
_OUTSIDE: Final = (
    "With CUDA 11.3 all kernels are loaded with their libraries. What that takes on this card is "
    "told by out-of-memory texts of then that name an RTX 3090, as total - free - reserved: "
    "{texts}. Other programs are among it, so the least says most; timm's networks load cuDNN, so "
    "the least of a network of convolutions is assumed: {assumed}."
)
_HISTORY: Final = (
    "59 rows were known while the prediction was made, and what is predicted for them was looked "
    "at many times; the others were added when all rules stood, and changed none."
)
_BLUE, _RED = "#0072b2", "#d55e00"


def outside_gib(text: Mapping[str, str]) -> float:
    """GiB that PyTorch's allocator did not hold where memory was out: context and libraries.

    Other programs are among it.
    """
    return float(text["total_gib"]) - float(text["free_gib"]) - float(text["reserved_gib"])


def out_of_memory_texts() -> list[dict[str, str]]:
    """Out-of-memory texts of an RTX 3090, smallest rest first."""
    return sorted(rows_of("rtx3090-out-of-memory.csv"), key=outside_gib)


def outside_bytes() -> int:
    """Context and libraries of the timm rows: the least that a text of convolutions leaves over.

    All of them load cuDNN, as timm's networks do; what is more belongs to other programs.
    """
    loaded = [text for text in out_of_memory_texts() if text["convolutions"] == "yes"]
    return round(outside_gib(loaded[0]) * GIB)


def verdict(row: Row, limit: int) -> str:
    """Judge the batch at which a row stops, with so much memory left to the allocator."""
    if row["needed_at_fits"] is None or row["needed_at_fits"] > limit:
        return "too low"
    failed = row["needed_at_next"] is None or row["needed_at_next"] > limit
    return "right" if failed else "too high"


def section(rows: Sequence[Row], folder: Path) -> list[str]:
    """The lines of the section, whose table and picture are written beside the report.

    Args:
        rows: `TimmRow`s as dicts.
        folder: Where `timm.csv` and `memory.png` go.
    """
    limit = _CARD_BYTES - outside_bytes()
    judged = [
        dict(row) | {"verdict": None if row["left_out"] else verdict(row, limit)} for row in rows
    ]
    pd.DataFrame(judged).convert_dtypes().to_csv(folder / "timm.csv", index=False)
    counted = [row for row in judged if row["verdict"] is not None]
    draw(counted, limit, folder)
    return _timm(counted, [row for row in judged if row["verdict"] is None], limit)


def reached(rows: Sequence[Row]) -> str:
    """The share of rows that are right, in words."""
    limit = _CARD_BYTES - outside_bytes()
    found = [verdict(row, limit) == "right" for row in rows if not row["left_out"]]
    return f"{sum(found)} of {len(found)} right"


def _timm(rows: Sequence[Row], left_out: Sequence[Row], limit: int) -> list[str]:
    known = [row for row in rows if row["known"]]
    others = [row for row in rows if not row["known"]]
    best = best_limit(known)
    lines = [
        f"## timm's training benchmark: {len(rows)} networks on an RTX 3090",
        "",
        _LADDER,
        "",
        "| left to the allocator | rows | right | too high | too low |",
        "| --- | --- | ---: | ---: | ---: |",
        _score(f"{limit / GIB:.2f} GiB, assumed", "known before", known, limit),
        _score(f"{limit / GIB:.2f} GiB, assumed", "others", others, limit),
        _score(f"{best / GIB:.2f} GiB, what the known rows ask for", "known before", known, best),
        _score(f"{best / GIB:.2f} GiB, what the known rows ask for", "others", others, best),
        "",
        _HISTORY,
        "",
        _recommended(rows, limit),
        "",
        _outside(),
        "",
        "![Memory that is predicted for what ran and what did not](memory.png)",
        "",
        *_misses(rows, limit),
    ]
    if left_out:
        named = "; ".join(f"{row['model']} ({row['left_out']})" for row in left_out)
        lines += ["", f"Left out, {len(left_out)}: {named}."]
    return [*lines, ""]


def best_limit(rows: Sequence[Row]) -> int:
    """With how much left to the allocator most of these rows are right, known afterwards.

    The middle where several values are as good.
    """
    edges = sorted(
        {row[at] for row in rows for at in ("needed_at_fits", "needed_at_next")} - {None}
    )
    right = [sum(verdict(row, edge) == "right" for row in rows) for edge in edges]
    place = right.index(max(right))
    return int(edges[place] + edges[place + 1]) // 2


def _score(left: str, which: str, rows: Sequence[Row], limit: int) -> str:
    found = [verdict(row, limit) for row in rows]
    counts = " | ".join(
        f"{found.count(kind)} ({found.count(kind) / max(1, len(rows)):.1%})"
        for kind in ("right", "too high", "too low")
    )
    return f"| {left} | {len(rows)} {which} | {counts} |"


def _recommended(rows: Sequence[Row], limit: int) -> str:
    """The effect of a recommendation's headroom on rows that are too high or too low."""
    room = limit * (1 - REFERENCE.headroom)

    def within(at: str) -> int:
        return sum(row[at] is not None and row[at] <= room for row in rows)

    failed, ran = within("needed_at_next"), within("needed_at_fits")
    return (
        f"A recommendation leaves {REFERENCE.headroom:.0%} free. With that, {failed} of the "
        f"{len(rows)} batches that were out of memory would be recommended "
        f"({failed / len(rows):.1%}), and {len(rows) - ran} of the {len(rows)} that ran would not."
    )


def _outside() -> str:
    """The source of the assumed memory outside the allocator."""
    texts = ", ".join(
        f"{outside_gib(text):.2f} GiB ({text['work']}; {text['source']})"
        for text in out_of_memory_texts()
    )
    return _OUTSIDE.format(texts=texts, assumed=f"{outside_bytes() / GIB:.2f} GiB")


def _misses(rows: Sequence[Row], limit: int) -> list[str]:
    """The misses far from the limit, with what is known of them, and how many are near."""
    missed = [row for row in rows if row["verdict"] != "right"]
    far = sorted(
        (row for row in missed if abs(_distance(row, limit)) > _FAR),
        key=lambda row: _distance(row, limit),
    )
    near = (
        f"{len(missed) - len(far)} of the {len(missed)} misses lie within {_FAR:.0%} of the limit "
        "(`timm.csv` has them all). timm's benchmark lowers the batch at any RuntimeError, so that "
        "some rows say nothing of memory; which ones cannot be told, and all are counted. The "
        "others:"
    )
    lines = [
        near,
        "",
        "| network | ran | did not | misjudged batch needs | from the limit | why |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row['model']} | {row['fits']} | {row['next_rung_failed']} | "
        f"{_misjudged(row) / GIB:.2f} GiB | {_distance(row, limit):+.1%} | "
        f"{EXPLANATIONS.get(row['model'], 'Not found.')} |"
        for row in far
    ]
    return lines


def _misjudged(row: Row) -> int:
    """The memory of the batch on whose side of the limit the prediction was wrong."""
    return int(row["needed_at_next" if row["verdict"] == "too high" else "needed_at_fits"])


def _distance(row: Row, limit: int) -> float:
    return _misjudged(row) / limit - 1


def draw(rows: Sequence[Row], limit: int, folder: Path) -> None:
    """Draw the predicted memory of the batches that ran and of those that did not."""
    edges = [size / 2 for size in range(12, 73)]
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "bsprobe"}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        for at, color, label in (
            ("fits", _BLUE, "ran on the RTX 3090"),
            ("next", _RED, "was out of memory there"),
        ):
            needed = [row[f"needed_at_{at}"] for row in rows]
            sizes = [size / GIB for size in needed if size is not None]
            axes.hist(sizes, bins=edges, color=color, alpha=0.6, label=label)
        axes.axvline(limit / GIB, color="black", linewidth=0.8)
        axes.set_ylim(top=axes.get_ylim()[1] * 1.15)  # for the line's name
        axes.annotate(
            f"assumed limit\n{limit / GIB:.2f} GiB",
            (limit / GIB, axes.get_ylim()[1]),
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
        )
        axes.set_xlabel("predicted: the least memory that the batch runs in, GiB")
        axes.set_ylabel("networks")
        axes.legend(frameon=False, loc="upper left")
        figure.savefig(folder / "memory.png", dpi=150)
