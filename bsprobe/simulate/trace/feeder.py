"""Batches of the traced steps: that of the set-up, or one that each step moves again."""

from collections.abc import Sequence

import torch

from bsprobe.records.habits import BatchPlace
from bsprobe.simulate.timeline import Kind
from bsprobe.simulate.trace.recorder import Recorder
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch


class Feeder:
    """Provides the micro-batches of each step.

    Args:
        batch: The batch that the set-up has put on the device.
        micro_batches: The number of micro-batches in a step; they share the batch.
        place: The treatment of the batch between two steps.
    """

    def __init__(self, batch: Batch | OwnBatch, micro_batches: int, place: BatchPlace) -> None:
        self._count = micro_batches
        self._place = place
        self._looks = batch.mapped(_without_memory)
        self._batches = [batch]

    @property
    def last(self) -> Batch | OwnBatch:
        """The batch of the last step."""
        return self._batches[-1]

    def fed(self, recorder: Recorder) -> Sequence[Batch | OwnBatch]:
        """Return the micro-batches of the next step; the recorder notes a batch that is moved."""
        if self._place is not BatchPlace.KEPT:
            if self._place is BatchPlace.MOVED:
                self._batches.clear()

            def moved(looks: torch.Tensor) -> torch.Tensor:
                tensor = torch.empty_strided(looks.shape, looks.stride(), dtype=looks.dtype)
                recorder.adopt(tensor, Kind.BATCH)
                return tensor

            self._batches = [self._looks.mapped(moved)]
        return self._batches * self._count


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
