"""The worker process of a study: the worker loop with handlers for trainings."""

from functools import partial
from pathlib import Path

import torch

from bsprobe.devices.selection import torch_device
from bsprobe.records.errors import UsageError
from bsprobe.records.failures import Outcome
from bsprobe.study.learning.loading import measure_loading
from bsprobe.study.learning.place import Meter, Place
from bsprobe.study.learning.train import learn
from bsprobe.study.messages import KINDS, LoadingDone, MeasureLoading, Train, TrainingDone
from bsprobe.worker.child import Failed, Session, serve


def train(session: Session, message: Train) -> None:
    """Run one training and send its result, or its failure."""
    work = partial(learn, message.spec, Path(message.checkpoint), _place(session))
    found = session.attempt(work)
    if isinstance(found, Failed):
        session.send(TrainingDone(outcome=found.outcome, failure=found.failure))
    else:
        session.send(TrainingDone(outcome=Outcome.FITS, result=found))


def sweep_loader(session: Session, message: MeasureLoading) -> None:
    """Sweep the settings of the data loader and send the rates, or the failure."""
    found = session.attempt(partial(measure_loading, message.spec, _place(session)))
    if isinstance(found, Failed):
        session.send(LoadingDone(outcome=found.outcome, failure=found.failure))
    else:
        session.send(LoadingDone(outcome=Outcome.FITS, result=found))


def _place(session: Session) -> Place:
    """The open device as a place to train on.

    Raises:
        UsageError: The device is simulated.
    """
    device = session.device
    if not isinstance(device, Meter):
        raise UsageError(f"{device.info.name} cannot train", hint="give --device cpu, or a GPU")
    where = torch_device(session.request)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if where.type == "cuda" and device.info.limit_bytes is not None:
        # Only the allocator's memory is limited: memory outside of it is not known in advance.
        share = device.info.limit_bytes / device.info.total_bytes
        torch.cuda.set_per_process_memory_fraction(share, where)
    return Place(device=where, meter=device)


if __name__ == "__main__":
    serve({Train: train, MeasureLoading: sweep_loader}, KINDS)
