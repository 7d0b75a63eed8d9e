"""Predictions of peak memory for the rows of mmsegmentation's model zoo; see published.py.

Rows that cannot be predicted have a reason instead of figures.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.published_programs import (
    EstimatedWorkspaces,
    NoWorkspaces,
    WinogradWorkspaces,
    peak_bytes,
)
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.trace.data_dependence import UntraceableModelError

if TYPE_CHECKING:
    from benchmarks.mmseg_zoo import Era, Training  # imports mmseg

Peaks = dict[str, Any]
"""Predicted bytes by the field of `ZooRow`."""
TABLES: Final = ("mmseg-zoo.csv", "mmseg-metafiles.csv")
AUTOCAST_SINCE: Final = "20200728"
"""The day of PyTorch 1.6. Older mixed precision was mmcv's own, with half-precision weights and
fp32 copies (`Fp16OptimizerHook` in mmcv/runner/hooks/optimizer.py of mmcv 1.0); not traced."""
NOT_TRACED: Final = {
    "configs/mask2former/": "needs mmdetection",
    "configs/pidnet/": "needs edge maps, which its loader makes",
}
"""Configurations that cannot be built or fed here, by parts of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooRow:
    """A row of the zoo and its prediction."""

    config: str
    images_per_gpu: int
    card: str
    trained: str
    """Date as YYYYMMDD; empty if unknown."""
    known: bool
    """True if the row was examined while a rule was made."""
    measured_gb: float
    """`max_memory_allocated`, in the zoo's GB."""
    predicted_bytes: int | None = None
    """`max_memory_allocated` with the buckets of DistributedDataParallel and the workspaces of
    cuDNN's non-fused Winograd transform: cuDNN 7 used it on these cards wherever it can run."""
    estimated_bytes: int | None = None
    """Like `predicted_bytes`, with workspaces estimated from the sizes, as for every card that the
    installed cuDNN does not support."""
    asked_bytes: int | None = None
    """Like `predicted_bytes`, with the workspaces of a cuDNN that supports the card."""
    tensors_bytes: int | None = None
    """Like `predicted_bytes`, without workspaces."""
    newer_bytes: int | None = None
    """The prediction with the software of mmsegmentation 1.0, for rows that may have used it."""
    left_out: str | None = None
    """The reason if nothing is predicted."""


class Scorer:
    """Predicts rows; equal steps are traced only once.

    Args:
        workspaces: The workspaces by card; rows of other cards are left out.
    """

    def __init__(self, workspaces: Mapping[str, Workspaces]) -> None:
        self._workspaces = workspaces
        self._peaks: dict[str, Peaks] = {}

    def scored(self, row: Mapping[str, str]) -> ZooRow:
        """Predict a row; on failure of the network or its trace, store the error as the reason."""
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

    def _peaks_of(self, row: ZooRow) -> Peaks:
        from benchmarks.mmseg_zoo import eras_of, training_of  # noqa: PLC0415 - needs mmseg

        training = training_of(row.config)
        if training.images_per_gpu != row.images_per_gpu:
            raise ValueError(f"its configuration says {training.images_per_gpu} images a GPU")
        eras = eras_of(row.trained)
        key = f"{training.same_step()} {row.images_per_gpu} {row.card} {eras}"
        if key not in self._peaks:
            self._peaks[key] = self._peaks_in(eras, training, row)
        return self._peaks[key]

    def _peaks_in(self, eras: tuple["Era", ...], training: "Training", row: ZooRow) -> Peaks:
        """Predict with the software of the first era that can run the step."""
        newest = self._peaks_with(eras[-1], training, row)
        if len(eras) == 1:
            return newest
        try:
            found = self._peaks_with(eras[0], training, row)
        except UntraceableModelError:  # the network writes to an output that an older ReLU saved
            found = newest
        return found | {"newer_bytes": newest["predicted_bytes"]}

    def _peaks_with(self, era: "Era", training: "Training", row: ZooRow) -> Peaks:
        from benchmarks.mmseg_zoo import ZooTracer  # noqa: PLC0415 - needs mmseg

        asked = self._workspaces[row.card]
        sources: dict[str, Any] = {
            "predicted_bytes": WinogradWorkspaces(),
            "estimated_bytes": EstimatedWorkspaces(),
            "tensors_bytes": NoWorkspaces(),
            **({} if asked.cudnn_version is None else {"asked_bytes": asked}),
        }
        tracer = ZooTracer(training, era)
        return {
            # docs/en/model_zoo.md of mmsegmentation: no timing.
            name: peak_bytes(tracer, row.images_per_gpu, each, benchmark=CudnnBenchmark.OFF)
            for name, each in sources.items()
        }
