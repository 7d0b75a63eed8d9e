"""Predictions of reserved memory for xMem's measured runs, beside the estimates of other tools.

data/published/README.md describes the measurements; see published.py. The runs had cuDNN 9.1,
which cannot plan without the card, so the workspaces are those of the installed cuDNN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.published_programs import NoWorkspaces, played
from benchmarks.xmem_programs import ITERATIONS, xmem_tracer
from bsprobe.records.gpus import find_gpu
from bsprobe.simulate.cudnn.workspace import Workspaces

CARDS: Final[Mapping[str, str]] = {"RTX 3060": "RTX 3060 12GB", "RTX 4060": "RTX 4060"}
"""Cards of the runs and their names in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XmemRow:
    """A run and its prediction; all sizes in bytes."""

    run: str
    known: bool
    """True if the run was examined while a rule was made."""
    ran_out: bool
    """True if the run was out of memory."""
    measured_bytes: int
    usable_bytes: int
    """The memory that the card leaves to the allocator, according to the catalogue."""
    fits: bool
    """True if the run is predicted to fit on the card."""
    reserved_bytes: int
    """On the card; if the run does not fit, until memory ran out."""
    unbounded_bytes: int
    """Reserved on a card of unlimited memory."""
    without_workspaces_bytes: int
    """Like `unbounded_bytes`, without workspaces of convolutions."""
    requested_bytes: int
    """The largest sum of live tensors, without workspaces and overhead of the allocator."""
    xmem_bytes: int
    xmem_fits: bool
    dnnmem_bytes: int
    schedtune_bytes: int


class Scorer:
    """Predicts runs.

    Args:
        workspaces: The workspaces by the compute capability of the cards.
    """

    def __init__(self, workspaces: Mapping[tuple[int, int], Workspaces]) -> None:
        self._workspaces = workspaces

    def scored(self, row: Mapping[str, str]) -> XmemRow:
        """Predict a run."""
        gpu, batch = find_gpu(CARDS[row["gpu"]]), int(row["batch"])
        workspaces = self._workspaces[gpu.capability]
        tracer = xmem_tracer(row["model"], row["optimiser"])
        run = partial(played, tracer, batch, steps=ITERATIONS, gpu=gpu)
        on_card = run(workspaces, available_bytes=gpu.allocator_bytes)
        unbounded = run(workspaces).statistics
        without = run(NoWorkspaces()).statistics
        return XmemRow(
            run=row["run"],
            known=row["known"] == "yes",
            ran_out=row["real_oom"] == "1",
            measured_bytes=int(row["ground_bytes"]),
            usable_bytes=gpu.allocator_bytes,
            fits=on_card.fits,
            reserved_bytes=on_card.statistics.peak_reserved_bytes,
            unbounded_bytes=unbounded.peak_reserved_bytes,
            without_workspaces_bytes=without.peak_reserved_bytes,
            requested_bytes=without.peak_requested_bytes,
            xmem_bytes=round(float(row["xmem_bytes"])),
            xmem_fits=row["xmem_says_oom"] != "1",
            dnnmem_bytes=round(float(row["dnnmem_bytes"])),
            schedtune_bytes=round(float(row["schedtune_bytes"])),
        )
