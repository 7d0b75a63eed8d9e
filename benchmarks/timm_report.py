"""Section of the published report on timm's benchmark: tables and a plot."""

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
"""Total memory of the card that PyTorch reported at that time: 23.70 GiB
(huggingface/transformers, docs of DeepSpeed). Newer drivers leave less: gpus.csv has the least."""

EXPLANATIONS: Final = {
    "cs3darknet_l": "The table contradicts itself: cs3sedarknet_l, the same network with "
    "squeeze-and-excitation, ran at 384.",
    "gluon_resnet152_v1s": "The table contradicts itself: seresnet152, whose 50 "
    "squeeze-and-excitations keep more than the wider stem of this network, ran at 192.",
    "resnetv2_101x1_bitm": "The table contradicts itself: resnetv2_101x3_bitm, the same network "
    "three times as wide, ran at 8, with as many activations and nine times the parameters.",
    "pit_s_224": "Not found. The peak is at the end of the forward pass. A third of it is the "
    "attention maps of the first two blocks, which take more than 2^31 bytes each at this batch "
    "and less at the batch below. timm of that time ran the same operators except for the place "
    "of one scaling, which keeps nothing.",
    "resnetv2_50d_evos": "Not found. EvoNorm consists of elementwise operators and a variance, "
    "without cuDNN. timm's code of it is unchanged, and so are the operators of its forward pass "
    "on fake CUDA tensors. Four more networks with EvoNorm are right.",
}
"""Findings about misses that a run may have."""
_FAR: Final = 0.05
"""Misses further than this from the limit are listed one by one."""
_LADDER: Final = (
    "The benchmark lowered the batch step by step (512, 384, 256, ...) until it ran. A row is "
    "right if the batch that ran is predicted to run and the next larger one is not."
)
_OUTSIDE: Final = (
    "CUDA 11.3 loads all kernels with their libraries. Out-of-memory messages of that time from "
    "an RTX 3090 give the memory they take, as total - free - reserved: "
    "{texts}. Other programs are included, so the smallest value is the best estimate. timm's "
    "networks load cuDNN, so the smallest value of a network of convolutions is assumed: {assumed}."
)
_HISTORY: Final = (
    "59 rows were known and examined often while the prediction was developed. The others were "
    "added after all rules were fixed, and changed none."
)
_BLUE, _RED = "#0072b2", "#d55e00"


def outside_gib(text: Mapping[str, str]) -> float:
    """Return the GiB that PyTorch's allocator did not hold when memory ran out.

    Context, libraries and other programs are included.
    """
    return float(text["total_gib"]) - float(text["free_gib"]) - float(text["reserved_gib"])


def out_of_memory_texts() -> list[dict[str, str]]:
    """Return out-of-memory messages of an RTX 3090, smallest remainder first."""
    return sorted(rows_of("rtx3090-out-of-memory.csv"), key=outside_gib)


def outside_bytes() -> int:
    """Return the assumed bytes of context and libraries: the least of a network of convolutions.

    Such networks load cuDNN, like all of timm's; a larger remainder belongs to other programs.
    """
    loaded = [text for text in out_of_memory_texts() if text["convolutions"] == "yes"]
    return round(outside_gib(loaded[0]) * GIB)


def verdict(row: Row, limit: int) -> str:
    """Judge a row's predicted batch for a memory limit of the allocator, in bytes."""
    if row["needed_at_fits"] is None or row["needed_at_fits"] > limit:
        return "too low"
    failed = row["needed_at_next"] is None or row["needed_at_next"] > limit
    return "right" if failed else "too high"


def section(rows: Sequence[Row], folder: Path) -> list[str]:
    """Return the lines of the section, and write its table and plot beside the report.

    Args:
        rows: `TimmRow`s as dicts.
        folder: The folder for `timm.csv` and `memory.png`.
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
    """Return the share of right rows, in words."""
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
        _score(f"{best / GIB:.2f} GiB, best for the known rows", "known before", known, best),
        _score(f"{best / GIB:.2f} GiB, best for the known rows", "others", others, best),
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
    """Return the allocator limit for which most of these rows are right.

    Among equally good limits, the middle one is taken.
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
    """Describe the effect of a recommendation's headroom on rows that are too high or too low."""
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
    """Describe the source of the assumed memory outside the allocator."""
    texts = ", ".join(
        f"{outside_gib(text):.2f} GiB ({text['work']}; {text['source']})"
        for text in out_of_memory_texts()
    )
    return _OUTSIDE.format(texts=texts, assumed=f"{outside_bytes() / GIB:.2f} GiB")


def _misses(rows: Sequence[Row], limit: int) -> list[str]:
    """List the misses far from the limit with the findings, and count the near ones."""
    missed = [row for row in rows if row["verdict"] != "right"]
    far = sorted(
        (row for row in missed if abs(_distance(row, limit)) > _FAR),
        key=lambda row: _distance(row, limit),
    )
    near = (
        f"{len(missed) - len(far)} of the {len(missed)} misses lie within {_FAR:.0%} of the limit "
        "(`timm.csv` has them all). timm's benchmark lowers the batch after any RuntimeError, so "
        "some rows may not be about memory. They cannot be told apart, so all rows are counted. "
        "The others:"
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
    """Return the memory of the batch on whose side of the limit the prediction was wrong."""
    return int(row["needed_at_next" if row["verdict"] == "too high" else "needed_at_fits"])


def _distance(row: Row, limit: int) -> float:
    return _misjudged(row) / limit - 1


def draw(rows: Sequence[Row], limit: int, folder: Path) -> None:
    """Plot the predicted memory of the batches that ran and of those that did not."""
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
