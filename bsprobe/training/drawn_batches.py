"""User-supplied batches whose size is drawn at random: the largest of several is used."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bsprobe.records.drawn import Drawn
from bsprobe.records.errors import UsageError
from bsprobe.records.variants import Variant
from bsprobe.records.workload import OwnParts
from bsprobe.training.own_batches import OwnBatch, elements_of, own_batch, shapes_of, size_words

_FEWEST_IMAGES: Final = (1, 2, 4)
"""Numbers of images to draw with; some callables reject the first."""
_MORE_IMAGES: Final = (2, 3)
"""Multiples of it at which a seed must give the same size, to use it for every batch."""

Shapes = tuple[tuple[int, ...], ...]


def with_draws(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return variants with the sizes that their batches have; each callable is asked once.

    Raises:
        UsageError: The callable makes no batch.
    """
    known: dict[tuple[str, int], Drawn | None] = {}
    found = []
    for variant in variants:
        own = variant.own
        if own.batches is not None and own.drawn is None and own.batches_seen > 1:
            key = own.batches, own.batches_seen
            if key not in known:
                known[key] = draws_of(*key)
            own = replace(own, drawn=known[key])
        found.append(replace(variant, own=own))
    return tuple(found)


def draws_of(name: str, count: int) -> Drawn | None:
    """Draw batches with the seeds 0, 1, 2 … and return their sizes.

    Args:
        name: The callable, as `load_callable` takes it.
        count: The number of batches to draw.

    Returns:
        The sizes; None if the callable fails, which the trials then report.

    Raises:
        UsageError: The callable makes no batch.
    """
    for images in _FEWEST_IMAGES:
        try:
            return _draws_with(name, count, images)
        except UsageError:
            raise
        except Exception:  # noqa: BLE001, S112 - user code may raise anything: trials report it
            continue
    return None


def drawn_batch(own: OwnParts, size: int, *, seed: int) -> OwnBatch:
    """Make the batch of a trial: the largest of those drawn if their sizes vary.

    Args:
        own: The parts of the workload, with a callable for batches.
        size: The batch size.
        seed: The seed of batches that do not vary.

    Raises:
        UsageError: The callable makes no batch.
    """
    assert own.batches is not None, "there is no callable for batches"  # noqa: S101 - a precondition
    drawn = own.drawn
    if drawn is None or not drawn.varies:
        return own_batch(own.batches, size, seed=seed)
    if drawn.seed is not None:
        return own_batch(own.batches, size, seed=drawn.seed)
    largest = own_batch(own.batches, size, seed=0)
    for other in range(1, drawn.count):
        batch = own_batch(own.batches, size, seed=other)
        largest = max(largest, batch, key=elements_of)
    return largest


def _draws_with(name: str, count: int, images: int) -> Drawn:
    made = [own_batch(name, images, seed=seed) for seed in range(count)]
    if len({shapes_of(batch) for batch in made}) == 1:
        return Drawn(count=count, sizes=(size_words(made[0], images),), seed=0)
    words = [size_words(batch, images) for batch in made]
    elements = [elements_of(batch) for batch in made]
    if len(set(words)) == 1:  # the inputs are alike, and the targets or other parts differ
        words = [f"{sum(each):,} elements" for each in elements]
    order = sorted(range(count), key=elements.__getitem__)
    largest = max(range(count), key=elements.__getitem__)
    is_fixed = all(_keeps_its_size(name, seed, images) for seed in range(count))
    return Drawn(
        count=count,
        sizes=tuple(dict.fromkeys(words[each] for each in order)),
        seed=largest if is_fixed else None,
    )


def _keeps_its_size(name: str, seed: int, images: int) -> bool:
    """Return whether the images of a seed have the same size in batches of any number."""
    numbers = [images, *(images * each for each in _MORE_IMAGES)]
    made = [own_batch(name, number, seed=seed) for number in numbers]
    words = {size_words(batch, number) for batch, number in zip(made, numbers, strict=True)}
    first, second, third = (elements_of(batch) for batch in made)
    grows_alike = all(b - a == c - b for a, b, c in zip(first, second, third, strict=True))
    return len(words) == 1 and grows_alike
