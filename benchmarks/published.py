"""The prediction against memory that others measured: timm's benchmark and mmsegmentation's zoo.

What was measured, on which machine, with which step, stands in data/published/README.md. From a
checkout, with timm and what mmseg-requirements.txt names installed; it takes most of an hour, and
--resume goes on with what is left:

    python benchmarks/published.py --out reports/published [--resume]

The folder gets `timm.csv`, `mmseg.csv`, `report.md`, `memory.png` and `results.json`. cuDNN's
answers are those of the version that is installed, not of the version then: that cannot be had.
"""

import argparse
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.mmseg_scores import Scorer, ZooRow
from benchmarks.published_programs import needed_bytes, peak_bytes, timm_tracer
from benchmarks.published_report import rows_of, write_report
from bsprobe.records.errors import BsprobeError
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces

IN_PLACE: Final = ("tresnet_", "_iabn")
"""Parts of the names of networks that had batch norm in place, by a package of its own, then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmRow:
    """A row of timm's table and what is predicted for it."""

    model: str
    image_size: int
    fits: int
    next_rung_failed: int
    known: bool
    """Whether it was looked at while the prediction was made."""
    left_out: str | None = None
    """Why it says nothing of the prediction."""
    allocated_at_fits: int | None = None
    """Bytes, on a card that is large enough; None where a kernel cannot do it."""
    allocated_at_next: int | None = None
    needed_at_fits: int | None = None
    """The least that the allocator can be left with for the steps to run, to 16 MiB: what it must
    reserve is among it."""
    needed_at_next: int | None = None


def timm_row(row: dict[str, str], workspaces: Workspaces) -> TimmRow:
    """What the steps need at the batch that ran and at the next, which did not."""
    fits, following = int(row["fits"]), int(row["next_rung_failed"])
    found = TimmRow(
        model=row["model"],
        image_size=int(row["image_size"]),
        fits=fits,
        next_rung_failed=following,
        known=row["known"] == "yes",
    )
    if any(part in row["model"] for part in IN_PLACE):
        return dataclasses.replace(found, left_out="its batch norm worked in place then")
    try:
        tracer = timm_tracer(row["model"], int(row["image_size"]))
        peak = partial(peak_bytes, tracer, workspaces=workspaces, benchmark=CudnnBenchmark.ON)
        found = dataclasses.replace(
            found,
            allocated_at_fits=peak(fits),
            allocated_at_next=peak(following),
            needed_at_fits=needed_bytes(peak, fits),
            needed_at_next=needed_bytes(peak, following),
        )
    except BsprobeError as error:
        return dataclasses.replace(found, left_out=str(error))
    then, now = float(row["million_parameters"]), tracer.facts.parameters / 1e6
    if abs(now - then) > 0.01 + 0.002 * then:
        reason = f"another network today: {now:.2f} million parameters, then {then:.2f}"
        return dataclasses.replace(found, left_out=reason)
    return found


def named(row: dict[str, str]) -> str:
    """The network of a row: timm's name, or the configuration."""
    return row["model"] if "model" in row else row["config"]


def predicted(
    rows: Sequence[dict[str, str]],
    predict: Callable[[dict[str, str]], TimmRow | ZooRow],
    done: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Predict row by row, but for those that are done, and show how far it is."""
    for count, row in enumerate(rows, start=1):
        name = named(row)
        if name not in done:
            done[name] = dataclasses.asdict(predict(row))
            print(f"{count}/{len(rows)} {done[name]}", flush=True)
        yield done[name]


def main() -> None:
    """Predict what is not done yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/published"))
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    given = parser.parse_args()
    os.environ["TIMM_FUSED_ATTN"] = "0"  # read when timm is imported
    warnings.filterwarnings("ignore", module="timm")
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "results.json"
    done = json.loads(kept.read_text()) if given.resume and kept.exists() else {}
    with Workspaces((8, 6)) as ampere, Workspaces((7, 0), allow_tf32=False) as volta:
        tables = (
            ("mmseg-zoo.csv", Scorer({"V100": volta}).scored),
            ("timm-rtx3090-amp.csv", partial(timm_row, workspaces=ampere)),
        )
        for table, predict in tables:
            rows = [row for row in rows_of(table) if given.only in named(row)]
            for _ in predicted(rows, predict, done):
                kept.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    write_report(
        given.out,
        done,
        software=f"PyTorch {torch.__version__}, cuDNN {ampere.cudnn_version or 'unasked'} and "
        f"timm {version('timm')}",
        notes=(*ampere.notes, *volta.notes),
    )


if __name__ == "__main__":
    main()
