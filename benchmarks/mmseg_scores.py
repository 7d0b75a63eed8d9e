"""Predictions of peak memory for the rows of mmsegmentation's model zoo; see published.py.

Rows that cannot be predicted have the reason in place of figures.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.published_programs import EstimatedWorkspaces, NoWorkspaces, peak_bytes
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces

TABLES: Final = ("mmseg-zoo.csv", "mmseg-metafiles.csv")
AUTOCAST_SINCE: Final = "20200728"
"""The day of PyTorch 1.6. Before it mixed precision was mmcv's own: half weights and fp32 copies
(`Fp16OptimizerHook` in mmcv/runner/hooks/optimizer.py of mmcv 1.0), which is not traced."""
NOT_TRACED: Final = {
    "configs/mask2former/": "needs mmdetection",
    "configs/pidnet/": "needs edge maps, which its loader makes",
}
"""Configurations that cannot be built here or fed, by parts of their names."""


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
        for part, reason in NOT_TRACED.items():
            if part in found.config:
                return dataclasses.replace(found, left_out=reason)
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
