"""Compare predictions with published measurements and recorded steps.

The measurements are timm's benchmark, mmsegmentation's model zoo, xMem's runs, and recordings of
kineto and HTA; data/published/README.md and data/recordings/README.md describe their machines and
steps. Run it from a checkout, with the packages of published-requirements.txt installed; it takes
two hours on two cores, and --resume continues an interrupted run:

    python -m benchmarks.published --out reports/published [--resume] [--part timm] [--only TEXT]

The folder gets `report.md`, a table for each part, `memory.png` and `results.json`. Workspaces are
those of the installed cuDNN, because the cuDNN of the measurements cannot plan without its GPU.
"""

import argparse
import dataclasses
import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks import mmseg_scores, recordings, xmem_scores
from benchmarks.published_data import rows_of
from benchmarks.published_report import write_report
from benchmarks.timm_scores import timm_row
from bsprobe.simulate.cudnn.workspace import Workspaces

_FIRST_TF32: Final = 8
Row = Mapping[str, str]
Done = dict[str, dict[str, dict[str, Any]]]
"""Predicted rows by part and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One table of published measurements."""

    name: str
    rows: Sequence[Row]
    row_name: Callable[[Row], str]
    predict: Callable[[Any], Any]
    """Makes a dataclass of a row."""


def parts_of(stack: ExitStack) -> tuple[Part, ...]:
    """Return all parts; cuDNN's answers are saved when the stack is closed."""

    def workspaces(major: int, minor: int) -> Workspaces:
        found = Workspaces((major, minor), allow_tf32=major >= _FIRST_TF32)
        return stack.enter_context(found)

    ampere = workspaces(8, 6)
    zoo = {"V100": workspaces(7, 0), "A100": workspaces(8, 0)}
    return (
        Part(
            name="recordings",
            rows=[{"file": case.file} for case in recordings.CASES],
            row_name=lambda row: row["file"],
            predict=lambda row: recordings.compared_file(row["file"]),
        ),
        Part(
            name="xmem",
            rows=rows_of("xmem.csv"),
            row_name=lambda row: row["run"],
            predict=xmem_scores.Scorer({(8, 6): ampere, (8, 9): workspaces(8, 9)}).scored,
        ),
        Part(
            name="mmseg",
            rows=[row for table in mmseg_scores.TABLES for row in rows_of(table)],
            row_name=lambda row: row["config"],
            predict=mmseg_scores.Scorer(zoo).scored,
        ),
        Part(
            name="timm",
            rows=rows_of("timm-rtx3090-amp.csv"),
            row_name=lambda row: row["model"],
            predict=functools.partial(timm_row, workspaces=ampere),
        ),
    )


def predicted(part: Part, only: str, done: Done) -> Iterator[None]:
    """Predict the rows of a part that are not done, printing the progress."""
    wanted = [row for row in part.rows if only in part.row_name(row)]
    known = done.setdefault(part.name, {})
    for count, row in enumerate(wanted, start=1):
        name = part.row_name(row)
        if name not in known:
            known[name] = dataclasses.asdict(part.predict(row)) | {"software": software()}
            print(f"{part.name} {count}/{len(wanted)} {name}", flush=True)
            yield


@functools.cache
def software() -> str:
    """Return the versions that a row is predicted with."""
    asked = Workspaces((8, 6)).cudnn_version or "unasked"
    return f"PyTorch {torch.__version__}, cuDNN {asked}"


PARTS: Final = ("recordings", "xmem", "mmseg", "timm")
NEEDED: Final = {"mmseg": "mmseg", "timm": "timm"}
"""Packages required by all rows of a part."""


def main() -> None:
    """Predict the missing rows and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/published"))
    parser.add_argument("--resume", action="store_true", help="keep existing rows")
    parser.add_argument("--part", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    given = parser.parse_args()
    chosen = given.part or PARTS
    for name, package in NEEDED.items():
        if name in chosen and find_spec(package) is None:
            needs = f"--part {name} needs {package}"
            parser.error(f"{needs}: pip install -r benchmarks/published-requirements.txt")
    os.environ["TIMM_FUSED_ATTN"] = "0"  # read when timm is imported; the measured timm had none
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "results.json"
    done: Done = json.loads(kept.read_text()) if given.resume and kept.exists() else {}
    with ExitStack() as stack:
        for part in parts_of(stack):
            if part.name in chosen:
                for _ in predicted(part, given.only, done):
                    kept.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    write_report(given.out, done)


if __name__ == "__main__":
    main()
