"""Predictions of peak memory against mmsegmentation's model zoo, row by row.

What was measured stands in data/published/README.md. With mmsegmentation installed, see
requirements.txt; it takes ten minutes:

    python -m benchmarks.mmseg_scores --out DIR [--only TEXT]

DIR gets `mmseg-zoo.csv`. Rows that cannot be predicted stay in it, with the reason.
"""

import argparse
import csv
import dataclasses
import logging
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.published_programs import EstimatedWorkspaces, NoWorkspaces, peak_bytes
from benchmarks.published_report import rows_of
from bsprobe.records.units import GIB
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces

TABLES: Final = ("mmseg-zoo.csv", "mmseg-metafiles.csv")
CAPABILITIES: Final = {"V100": (7, 0), "A100": (8, 0)}
"""The cards whose workspaces cuDNN tells; the others are older, and few."""
AUTOCAST_SINCE: Final = "20200728"
"""The day of PyTorch 1.6. Before it mixed precision was mmcv's own: half weights and fp32 copies
(`Fp16OptimizerHook` in mmcv/runner/hooks/optimizer.py of mmcv 1.0), which is not traced."""
NEAR: Final = 0.03
WORST_ROWS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooRow:
    """A row of the zoo and what is predicted for it."""

    config: str
    images_per_gpu: int
    card: str
    trained: str
    """The day, as YYYYMMDD; empty where it is not said."""
    known: bool
    """Looked at while a rule was made."""
    measured_gb: float
    """`max_memory_allocated`, in the zoo's GB."""
    predicted_bytes: int | None = None
    """`max_memory_allocated`, the buckets of DistributedDataParallel among it; workspaces are
    estimated from the sizes, as for every card that the installed cuDNN does not support."""
    asked_bytes: int | None = None
    """The same with the workspaces of a cuDNN that supports the card; None without one."""
    tensors_bytes: int | None = None
    """The same without any workspace."""
    left_out: str | None = None
    """The reason why nothing is predicted."""

    @property
    def head(self) -> str:
        """The folder of the configuration: the name of its head or of its network."""
        return self.config.split("/")[1]

    @property
    def error(self) -> float | None:
        """The relative error, a GB being 2^30 bytes."""
        if self.predicted_bytes is None:
            return None
        return self.predicted_bytes / GIB / self.measured_gb - 1


class Scorer:
    """Predicts rows; equal steps are traced once.

    Args:
        workspaces: By the cards of the rows; others are left out.
    """

    def __init__(self, workspaces: Mapping[str, Workspaces]) -> None:
        self._workspaces = workspaces
        self._peaks: dict[str, dict[str, Any]] = {}

    def scored(self, row: Mapping[str, str]) -> ZooRow:
        """Predict a row; any failure of a network or of its trace is the row's reason."""
        found = ZooRow(
            config=row["config"],
            images_per_gpu=int(row["images_per_gpu"]),
            card=row["card"],
            trained=row["trained"],
            known=row["known"] == "yes",
            measured_gb=float(row["mem_gb"]),
        )
        if found.card not in self._workspaces:
            return dataclasses.replace(found, left_out=f"measured on a {found.card}")
        if row["amp"] == "yes" and found.trained and found.trained < AUTOCAST_SINCE:
            return dataclasses.replace(found, left_out="mixed precision before autocast")
        try:
            return dataclasses.replace(found, **self._peaks_of(found))
        except Exception as error:  # noqa: BLE001 - other people's networks raise anything
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            return dataclasses.replace(found, left_out=reason)

    def _peaks_of(self, row: ZooRow) -> dict[str, Any]:
        from benchmarks.mmseg_zoo import ZooTracer, training_of  # noqa: PLC0415 - needs mmseg

        training = training_of(row.config)
        if training.images_per_gpu != row.images_per_gpu:
            raise ValueError(f"its configuration says {training.images_per_gpu} images a GPU")
        key = f"{training.same_step()} {row.images_per_gpu} {row.card}"
        if key not in self._peaks:
            asked = self._workspaces[row.card]
            sources: dict[str, Any] = {
                "predicted_bytes": EstimatedWorkspaces(),
                "tensors_bytes": NoWorkspaces(),
                **({} if asked.cudnn_version is None else {"asked_bytes": asked}),
            }
            tracer = ZooTracer(training)
            self._peaks[key] = {
                # docs/en/model_zoo.md of mmsegmentation: no timing.
                name: peak_bytes(tracer, row.images_per_gpu, each, benchmark=CudnnBenchmark.OFF)
                for name, each in sources.items()
            }
        return self._peaks[key]


def summary(rows: Sequence[ZooRow]) -> Iterator[str]:
    """Give the lines of a summary: all rows, those of each head, the worst, those left out."""
    scored = [(abs(row.error), row) for row in rows if row.error is not None]
    scored.sort(key=lambda pair: -pair[0])
    known = [error for error, row in scored if row.known]
    yield _line("all", [error for error, _ in scored])
    yield _line("known", known)
    yield _line("not known", [error for error, row in scored if not row.known])
    for head in sorted({row.head for _, row in scored}):
        yield _line(head, [error for error, row in scored if row.head == head])
    yield "worst:"
    yield from (f"  {row.error:+.1%} {row.config}" for _, row in scored[:WORST_ROWS])
    left_out = [row for row in rows if row.left_out is not None]
    yield f"left out: {len(left_out)}"
    yield from (f"  {row.config}: {row.left_out}" for row in left_out)


def _line(name: str, errors: Sequence[float]) -> str:
    if not errors:
        return f"{name}: no row"
    near = sum(error <= NEAR for error in errors) / len(errors)
    return (
        f"{name}: {len(errors)} rows, median |error| {statistics.median(errors):.1%}, "
        f"{near:.0%} within {NEAR:.0%}"
    )


def write(rows: Sequence[ZooRow], path: Path) -> None:
    """Write the rows as a table."""
    names = [each.name for each in dataclasses.fields(ZooRow)]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*names, "error"])
        for row in rows:
            error = "" if row.error is None else f"{row.error:.4f}"
            table.writerow([*(getattr(row, name) for name in names), error])


def main() -> None:
    """Predict all rows, print the summary and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="rows whose configuration contains this")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [row for table in TABLES for row in rows_of(table) if given.only in row["config"]]
    workspaces = {
        card: Workspaces(capability, allow_tf32=card != "V100")
        for card, capability in CAPABILITIES.items()
    }
    scorer = Scorer(workspaces)
    found = []
    for row in rows:
        found.append(scorer.scored(row))
        error = found[-1].error
        shown = found[-1].left_out if error is None else f"{error:+.1%}"
        print(f"{len(found)}/{len(rows)} {row['config']}: {shown}", flush=True)
        write(found, given.out / "mmseg-zoo.csv")
    for each in workspaces.values():
        each.save()
    print(*summary(found), sep="\n")


if __name__ == "__main__":
    main()
