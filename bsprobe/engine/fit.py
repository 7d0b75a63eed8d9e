"""Predictions of each variant on each card of the catalogue, to choose a GPU for a network."""

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
        variants: The variants to predict.
        cards: The cards to predict for; at least one.
        batch: The batch that the user wants, or None.
        command: The command line that reproduces the result.
        on_fit: Called with each result when it arrives.

    Returns:
        All results, with the environment.

    Raises:
        DeviceError: A network cannot be traced.
        WorkerError: The worker died.
    """
    found = []
    with closing(Worker(DeviceRequest(gpu=cards[0]), variants=variants)) as worker:
        known = worker.ready.variants or variants
        for each in worker.fit(known, cards, max_batch=max(MAX_BATCH, batch or 0)):
            found.append(each)
            on_fit(each)
        environment = describe_environment(worker.ready, command)
    return Fitting(environment=environment, wanted_batch=batch, fits=tuple(found))
