"""Section of the published report on xMem's runs: four estimators side by side."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Row = Mapping[str, Any]

AIM: Final = "median at most 2%, mean below xMem's"

_FAR: Final = 0.03
"""Misses further than this are listed one by one."""
_OURS: Final[Mapping[str, str]] = {
    "bsprobe, on the card": "reserved_bytes",
    "bsprobe, without its limit": "unbounded_bytes",
}
_PEERS: Final[Mapping[str, str]] = {
    "xMem": "xmem_bytes",
    "DNNMem": "dnnmem_bytes",
    "SchedTune": "schedtune_bytes",
}
_PARTS: Final[Mapping[str, str]] = {
    "bsprobe, without workspaces": "without_workspaces_bytes",
    "bsprobe, live tensors alone": "requested_bytes",
}
_TOLD: Final = (
    "torchvision networks at 86x86 in fp32 with PyTorch 2.6 and cuDNN 9.1, on an RTX 3060 12GB and "
    "an RTX 4060. The measured value is the largest figure of NVML minus the first; it is compared "
    "with the reserved memory of the allocator. Errors are those of runs that ran. *On the card*, "
    "the allocator releases cached memory when the card is full, which bounds the error from "
    "above; the other tools' estimates and the second row have no such bound. The workspaces are "
    "those of the installed cuDNN, because 9.1 needs the card itself."
)
_REASONS: Final = (
    "The misses probably come from workspaces, that is, from the plan that cuDNN puts first. The "
    "same runs change as much with another cuDNN (`--part xmem` in an environment with it) and "
    "without workspaces; later tensors may fit into memory that an early workspace took. The "
    "choice of cuDNN 9.1 cannot be seen without a GPU, so no rule was derived from it."
)
_VERDICTS: Final = (
    "*Fits* is right if a run is predicted to run and ran, or predicted to be out of memory and "
    "was. xMem gives its own verdict. DNNMem and SchedTune give none; they count as fitting if the "
    "estimate is within the memory that the card leaves to the allocator."
)


def error(row: Row, estimate: str) -> float:
    """Return the relative error of an estimate, by the name of its column."""
    return int(row[estimate]) / int(row["measured_bytes"]) - 1


def fits(row: Row, estimate: str) -> bool:
    """Return the verdict of an estimate, given or derived."""
    match estimate:
        case "reserved_bytes":
            return bool(row["fits"])
        case "xmem_bytes":
            return bool(row["xmem_fits"])
        case _:
            return int(row[estimate]) <= int(row["usable_bytes"])


def reached(rows: Sequence[Row]) -> str:
    """Return the median and the mean, beside xMem's on the same runs, in words."""
    ran = [row for row in rows if not row["ran_out"]]

    def figures(column: str) -> str:
        sizes = [abs(error(row, column)) for row in ran]
        return f"median {statistics.median(sizes):.1%}, mean {statistics.mean(sizes):.1%}"

    return f"{figures('reserved_bytes')} (xMem: {figures('xmem_bytes')})"


def section(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the section.

    Args:
        rows: `XmemRow`s as dicts.
    """
    ran = [row for row in rows if not row["ran_out"]]
    columns = {**_OURS, **_PEERS, **_PARTS}
    return [
        f"## xMem's runs: {len(rows)} measured, {len(ran)} of them ran",
        "",
        _TOLD,
        "",
        "| | median error | mean | worst | median, known before | others | *fits*: right | wrong |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_score(name, column, rows, ran) for name, column in columns.items()),
        "",
        _VERDICTS,
        "",
        *_misses(ran),
        "",
        _REASONS,
        "",
    ]


def _score(name: str, column: str, rows: Sequence[Row], ran: Sequence[Row]) -> str:
    def median(counts: Callable[[Row], bool]) -> str:
        found = [abs(error(row, column)) for row in ran if counts(row)]
        return f"{statistics.median(found):.1%}" if found else "-"

    errors = [error(row, column) for row in ran]
    right = sum(fits(row, column) != row["ran_out"] for row in rows)
    cells = (
        name,
        median(lambda _: True),
        f"{statistics.mean(map(abs, errors)):.1%}",
        f"{max(errors, key=abs):+.1%}",
        median(lambda row: row["known"]),
        median(lambda row: not row["known"]),
        str(right),
        str(len(rows) - right),
    )
    return f"| {' | '.join(cells)} |"


def _misses(ran: Sequence[Row]) -> list[str]:
    far = [row for row in ran if abs(error(row, "reserved_bytes")) > _FAR]
    far.sort(key=lambda row: -abs(error(row, "reserved_bytes")))
    columns = {**_OURS, **_PARTS, "xMem": "xmem_bytes"}
    return [
        f"{len(far)} of {len(ran)} are further off than {_FAR:.0%}:",
        "",
        f"| run | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(
            f"| {row['run']} | "
            + " | ".join(f"{error(row, column):+.1%}" for column in columns.values())
            + " |"
            for row in far
        ),
    ]
