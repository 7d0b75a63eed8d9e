"""The choice of a GPU for a network: each variant predicted on each card of the catalogue."""

from collections.abc import Callable, Sequence
from contextlib import closing

from bsprobe.records.fits import CardFit, Fitting
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import MAX_BATCH, DeviceRequest
from bsprobe.records.variants import Variant
from bsprobe.worker.environment import describe_environment
from bsprobe.worker.process import Worker


def fit(
    variants: tuple[Variant, ...],
    cards: Sequence[Gpu],
    *,
    batch: int | None,
    command: str,
    on_fit: Callable[[CardFit], None],
) -> Fitting:
    """Predict the largest batch of each variant on each card.

    Args:
        variants: What to train.
        cards: At least one.
        batch: The batch that is wanted, or None.
        command: The command line, for the reader to type again.
        on_fit: Told each answer as it comes.

    Raises:
        DeviceError: A network cannot be traced.
        WorkerError: The process that predicts died.
    """
    found = []
    with closing(Worker(DeviceRequest(gpu=cards[0]), variants=variants)) as worker:
        known = worker.ready.variants or variants
        for each in worker.fit(known, cards, max_batch=max(MAX_BATCH, batch or 0)):
            found.append(each)
            on_fit(each)
        environment = describe_environment(worker.ready, command)
    return Fitting(environment=environment, wanted_batch=batch, fits=tuple(found))
