"""Report of published.py: the goals first, then a section for each part."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks import mmseg_report, timm_report, xmem_report
from bsprobe.simulate.versions import Change, Version, has

Row = Mapping[str, Any]

_VERSIONS: Final[Mapping[str, Version]] = {
    "timm's benchmark": (1, 12),
    "mmsegmentation's zoo": (1, 5),
    "xMem's runs": (2, 6),
    "kineto's recordings": (1, 9),
    "HTA's recording": (2, 1),
}
NOT_IMITATED: Final = (
    Change.CUDNN_FRONTEND,
    Change.GROUPED_QUERIES_FUSED,
    Change.KERNELS_LOADED_LAZILY,
)
"""Changes that a trace does not undo: one of cuDNN, one that follows the installed PyTorch, and
one outside the allocator."""


def write_report(folder: Path, done: Mapping[str, Mapping[str, Row]]) -> None:
    """Write `report.md`, a table for each part, and the plot, from the predicted rows.

    Args:
        folder: The folder to write to.
        done: Rows by part and name, as kept by published.py.
    """
    rows = {part: list(found.values()) for part, found in done.items()}
    for part in ("mmseg", "xmem"):
        if part in rows:
            pd.DataFrame(rows[part]).convert_dtypes().to_csv(folder / f"{part}.csv", index=False)
    lines = [
        "# Predictions compared with published measurements  [predicted, and measured by others]",
        "",
        *_aims(rows),
        "",
        "Made by `python -m benchmarks.published`; the measurements are in "
        "`benchmarks/data/published/` and `benchmarks/data/recordings/`. "
        + " ".join(_software(rows)),
        "",
        *_versions(),
        "",
    ]
    if "recordings" in rows:
        lines += _recordings(rows["recordings"])
    if "xmem" in rows:
        lines += xmem_report.section(rows["xmem"])
    if "mmseg" in rows:
        lines += mmseg_report.section(rows["mmseg"])
    if "timm" in rows:
        lines += timm_report.section(rows["timm"], folder)
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _aims(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Yield one line for each part: the goal and the figure reached."""
    yield "| compared with | goal | reached |"
    yield "| --- | --- | --- |"
    if "recordings" in rows:
        equal = sum(row["is_equal"] for row in rows["recordings"])
        yield (
            "| kineto, HTA: steps recorded event by event | all tensors equal in sequence | "
            f"{equal} of {len(rows['recordings'])} recordings |"
        )
    if "xmem" in rows:
        yield f"| xMem's runs, reserved | {xmem_report.AIM} | {xmem_report.reached(rows['xmem'])} |"
    if "mmseg" in rows:
        errors = [abs(e) for row in rows["mmseg"] if (e := mmseg_report.error(row)) is not None]
        near = sum(each <= mmseg_report.NEAR for each in errors) / len(errors)
        yield (
            "| mmsegmentation's zoo, peak allocated | median at most 0.5%, 95% of rows within 3% | "
            f"median {statistics.median(errors):.2%}, {near:.0%} within 3% |"
        )
    if "timm" in rows:
        yield f"| timm's benchmark, the rung that fits | - | {timm_report.reached(rows['timm'])} |"


def _software(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Yield sentences that name the versions each part was predicted with."""
    parts: dict[str, list[str]] = defaultdict(list)
    for part, found in rows.items():
        parts[" and ".join(sorted({row["software"] for row in found}))].append(part)
    for versions, together in parts.items():
        yield f"Predicted with {versions}: {', '.join(together)}."


def _versions() -> Iterator[str]:
    """Yield the differences between each part's PyTorch and the current one, as a table."""
    yield "| part | PyTorch | imitated as absent | not imitated |"
    yield "| --- | --- | --- | --- |"
    for part, version in _VERSIONS.items():
        missing = [change for change in Change if not has(version, change)]
        imitated = [_words(each) for each in missing if each not in NOT_IMITATED]
        others = [_words(each) for each in missing if each in NOT_IMITATED]
        number = ".".join(map(str, version))
        yield f"| {part} | {number} | {', '.join(imitated) or '-'} | {', '.join(others) or '-'} |"


def _words(change: Change) -> str:
    return change.name.lower().replace("_", " ")


def _recordings(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Steps recorded event by event"
    yield ""
    yield (
        "Tensors are compared in the order of their allocation, with their sizes and operators. "
        "Workspaces are left out, because other versions of cuDNN chose them. "
        "`python -m benchmarks.recordings` prints the same."
    )
    yield ""
    yield "```text"
    for row in rows:
        yield row["text"]
    yield "```"
    yield ""
