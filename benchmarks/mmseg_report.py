"""Section of the published report on mmsegmentation's model zoo."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from bsprobe.records.units import GIB, MIB

Row = Mapping[str, Any]

NEAR: Final = 0.03
"""Relative error above which a row is listed with its cause."""
_INTRODUCTION: Final = (
    "fp32 and autocast, two to eight images a GPU, four processes. The networks, losses and "
    "optimizers are mmsegmentation's own, built from its configurations. The imitated PyTorch is "
    "1.5, or 1.13 for a network that 1.5 cannot run, because the zoo does not record the version "
    "of a row. A GB counts as 2^30 bytes. The zoo's cuDNN was 7, mostly 7.6, which cannot be "
    "queried. UPerNet's rows show that it took the workspace of the non-fused Winograd transform "
    "for 3 by 3 convolutions with stride 1; this workspace is predicted for all of them, and none "
    "for other convolutions. For comparison, the table has workspaces estimated from the sizes, as "
    "in `bsprobe run` for a card that the installed cuDNN does not support, those of a cuDNN that "
    "supports the card (up to 9.10), and the tensors alone."
)
FIGURES: Final = {
    "predicted_bytes": "workspaces of the Winograd transform, if it can run",
    "estimated_bytes": "workspaces estimated from the sizes",
    "asked_bytes": "workspaces as cuDNN names them for the card",
    "tensors_bytes": "tensors alone",
}
SUSPECT: Final = {
    **dict.fromkeys(
        (
            "pspnet_r50-d8_4xb4-20k_coco-stuff10k",
            "pspnet_r101-d8_4xb4-20k_coco-stuff10k",
            "pspnet_r50-d8_4xb4-80k_coco-stuff164k",
            "pspnet_r101-d8_4xb4-80k_coco-stuff164k",
        ),
        "equal to DeepLabV3's figures, to the digit",
    ),
    **dict.fromkeys(
        (
            "emanet_r50-d8_4xb2-80k_cityscapes-769x769",
            "emanet_r101-d8_4xb2-80k_cityscapes-512x1024",
        ),
        "the figures of two rows seem exchanged",
    ),
    "deeplabv3plus_r101-d16-mg124_4xb2": "5.8 and 9.9 for the same step",
    "convnext-xlarge": "2.17 times that of convnext-large, which is three quarters as wide",
    "ddrnet_23-slim": "the logits of two heads at full size, with gradients, alone take 1.78",
    "knet-s3_swin-l_upernet_8xb2-adamw-80k_ade20k-640x640": "about the 13.5 of 512x512",
    "dnl_r50-d8_4xb4-80k_ade20k": "4.0 less than with ResNet-101; elsewhere 3.4 to 3.6 less",
}
"""Rows whose published figure contradicts another row, by parts of their names."""


def error(row: Row, figure: str = "predicted_bytes", gigabyte: float = GIB) -> float | None:
    """Return the relative error of one figure of a row; None if the row lacks it."""
    predicted = row[figure]
    return None if predicted is None else predicted / gigabyte / row["measured_gb"] - 1


def cause(row: Row) -> str:
    """Return the likely cause of a miss, derived from the row's figures."""
    for part, words in SUSPECT.items():
        if part in row["config"]:
            return f"the zoo contradicts itself: {words}"
    found = [error(row, figure) for figure in FIGURES]
    known = [each for each in found if each is not None]
    if min(known) <= NEAR and max(known) >= -NEAR:
        return "workspaces: the figure lies between the tensors alone and the largest of them"
    newer = error(row, "newer_bytes")
    if newer is not None and abs(newer) <= NEAR:
        return "software: right with PyTorch 1.13 and mmsegmentation 1.0"
    if _is_near_rounded(row):
        return "rounding: within 3% of a value that rounds to the figure"
    thousands = error(row, gigabyte=1000 * MIB)
    if thousands is not None and abs(thousands) <= NEAR:
        return "unit: right if one GB is 1000 MiB"
    return "not found"


def _is_near_rounded(row: Row) -> bool:
    """True if a figure that rounds to the published one is near enough."""
    decimals = len(str(row["measured_gb"]).partition(".")[2])
    half = 0.5 / 10**decimals
    return any(
        abs(row["predicted_bytes"] / GIB / (row["measured_gb"] + each) - 1) <= NEAR
        for each in (-half, half)
    )


def section(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the section.

    Args:
        rows: `ZooRow`s as dicts.
    """
    scored = [row for row in rows if row["predicted_bytes"] is not None]
    left_out = [row for row in rows if row["predicted_bytes"] is None]
    return [
        f"## mmsegmentation's model zoo: peak allocated of {len(scored)} configurations",
        "",
        _INTRODUCTION,
        "",
        *_by_figure(scored),
        "",
        *_by_head(scored),
        "",
        *_misses(scored),
        "",
        *_left_out(left_out),
        "",
    ]


def _by_figure(rows: Sequence[Row]) -> Iterator[str]:
    yield "| figure | rows | median error | mean | within 3% | worst |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for figure, name in FIGURES.items():
        for which, group in (
            ("known before", [row for row in rows if row["known"]]),
            ("others", [row for row in rows if not row["known"]]),
        ):
            errors = [each for row in group if (each := error(row, figure)) is not None]
            if errors:
                yield f"| {name} | {len(errors)} {which} | {_figures(errors)} |"


def _by_head(rows: Sequence[Row]) -> Iterator[str]:
    heads: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found = error(row)
        assert found is not None  # noqa: S101 - these rows are predicted
        heads[row["config"].split("/")[1]].append(found)
    yield "By folder of the configurations, workspaces of the Winograd transform:"
    yield ""
    yield "| folder | rows | median error | mean | within 3% | worst |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for head, errors in sorted(heads.items()):
        yield f"| {head} | {len(errors)} | {_figures(errors)} |"


def _figures(errors: Sequence[float]) -> str:
    sizes = [abs(each) for each in errors]
    near = sum(size <= NEAR for size in sizes) / len(sizes)
    worst = max(errors, key=abs)
    return (
        f"{statistics.median(sizes):.2%} | {statistics.fmean(sizes):.2%} | {near:.0%} | "
        f"{worst:+.1%}"
    )


def _misses(rows: Sequence[Row]) -> Iterator[str]:
    by_cause: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found = error(row)
        if found is not None and abs(found) > NEAR:
            by_cause[cause(row)].append(f"{PurePosixPath(row['config']).stem} {found:+.1%}")
    total = sum(map(len, by_cause.values()))
    yield f"{total} rows are further off than {NEAR:.0%}:"
    yield ""
    yield "| cause | rows | which |"
    yield "| --- | ---: | --- |"
    for name, which in sorted(by_cause.items(), key=lambda pair: -len(pair[1])):
        yield f"| {name} | {len(which)} | {', '.join(which)} |"


def _left_out(rows: Sequence[Row]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_reason[row["left_out"]].append(PurePosixPath(row["config"]).stem)
    if rows:
        named = "; ".join(f"{reason} ({', '.join(which)})" for reason, which in by_reason.items())
        yield f"Left out, {len(rows)}: {named}."
