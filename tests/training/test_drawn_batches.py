"""Of user-supplied batches whose size is drawn at random, the largest is used."""

import random

import numpy as np
import pytest
import torch

from bsprobe.records.drawn import Drawn
from bsprobe.records.errors import UsageError
from bsprobe.records.variants import Variant
from bsprobe.records.workload import OwnParts
from bsprobe.training.drawn_batches import drawn_batch, draws_of, with_draws
from bsprobe.training.own_batches import elements_of, shapes_of

HERE = __name__
calls: list[int] = []
Pair = tuple[torch.Tensor, torch.Tensor]


def pair(size: int, side: int) -> Pair:
    calls.append(size)
    return torch.zeros(size, 3, side, 2 * side), torch.zeros(size, side, 2 * side)


def alike(size: int) -> Pair:
    return pair(size, 4)


def by_torch(size: int) -> Pair:
    return pair(size, int(torch.randint(1, 9, ())))


def by_python(size: int) -> Pair:
    return pair(size, random.randint(1, 8))


def by_numpy(size: int) -> Pair:
    return pair(size, int(np.random.randint(1, 9)))  # noqa: NPY002 - as users do


def by_image(size: int) -> Pair:
    return pair(size, max(random.randint(1, 8) for _ in range(size)))


def after_others(size: int) -> Pair:
    torch.rand(size)
    return by_torch(size)


def even(size: int) -> Pair:
    if size % 2:
        raise ValueError("odd")
    return by_python(size)


def broken(size: int) -> Pair:
    raise RuntimeError(size)


def nothing(size: int) -> int:
    return size


def targets(size: int) -> Pair:
    return torch.zeros(size, 3, 4, 4), torch.zeros(size, random.randint(1, 8))


def detection(size: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    images = [torch.zeros(3, random.randint(1, 8), 5) for _ in range(size)]
    return images, [{"boxes": torch.zeros(1, 4)}] * size


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def draws(name: str, count: int = 8) -> Drawn:
    found = draws_of(f"{HERE}:{name}", count)
    assert found is not None
    return found


def sides(name: str, size: int, count: int = 8) -> int:
    """The height of the images of a trial."""
    own = OwnParts(batches=f"{HERE}:{name}", batches_seen=count, drawn=draws(name, count))
    height: int = drawn_batch(own, size, seed=0).inputs.shape[2]
    return height


def test_batches_of_equal_shapes_are_drawn_with_one_image_only_and_say_nothing() -> None:
    found = draws("alike")
    assert (found.sizes, found.varies, calls) == (("4x8",), False, [1] * 8)
    own = OwnParts(batches=f"{HERE}:alike", drawn=found)
    drawn_batch(own, 3, seed=5)
    assert calls[8:] == [3]
    assert Variant(model="m:n", resolution=None, own=own).described_inputs == (
        f"batches of {HERE}:alike"
    )


@pytest.mark.parametrize("name", ["by_torch", "by_python", "by_numpy"])
def test_the_largest_of_several_draws_is_used_at_every_batch(name: str) -> None:
    found = draws(name)
    heights = [int(size.partition("x")[0]) for size in found.sizes]
    assert len(heights) > 2
    assert heights == sorted(heights)
    assert sides(name, 1) == sides(name, 5) == heights[-1]
    assert draws(name) == found
    assert found.describe() == (
        f"largest of 8 drawn: {found.sizes[-1]}; sizes {found.sizes[0]} to {found.sizes[-1]}"
    )


def test_more_draws_find_larger_sizes() -> None:
    assert [sides("by_python", 1, count) for count in (2, 100)] == [7, 8]


@pytest.mark.parametrize("name", ["by_image", "after_others"])
def test_sizes_that_depend_on_the_batch_are_drawn_for_each_batch(name: str) -> None:
    found = draws(name)
    assert (found.varies, found.seed) == (True, None)
    assert "for each batch" in found.describe()
    single = OwnParts(batches=f"{HERE}:{name}")
    heights = [drawn_batch(single, 3, seed=seed).inputs.shape[2] for seed in range(8)]
    assert sides(name, 3) == max(heights) > min(heights)


def test_a_callable_that_rejects_one_image_is_asked_for_two() -> None:
    assert draws("even").varies
    assert calls[:8] == [2] * 8


def test_images_of_detectors_and_targets_have_sizes_too() -> None:
    assert draws("detection").sizes[-1].endswith("x5")
    assert draws("targets").sizes[-1].endswith(" elements")


def test_a_callable_that_fails_is_left_to_the_trials_and_one_without_a_batch_is_refused() -> None:
    assert draws_of(f"{HERE}:broken", 8) is None
    with pytest.raises(UsageError, match="returned a int"):
        draws_of(f"{HERE}:nothing", 8)


def test_each_callable_is_asked_once_for_all_variants() -> None:
    own = OwnParts(batches=f"{HERE}:alike", batches_seen=4)
    variants = [Variant(model=model, resolution=None, own=own) for model in ("m:a", "m:b")]
    found = with_draws(variants)
    assert (len(calls), found[0].own.drawn, found[1].own.drawn) == (4, *[draws("alike", 4)] * 2)
    assert list(found) == variants  # what was drawn makes no other variant
    calls.clear()
    assert with_draws(found) == found
    one = OwnParts(batches=f"{HERE}:alike", batches_seen=1)
    assert with_draws([Variant(model="m:a", resolution=None, own=one)])[0].own.drawn is None
    assert calls == []


def test_the_random_numbers_of_the_program_go_on_as_before() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    draws("by_python")
    assert random.random() == expected


def test_elements_count_inputs_before_targets() -> None:
    own = OwnParts(batches=f"{HERE}:alike")
    batch = drawn_batch(own, 2, seed=0)
    assert (elements_of(batch), shapes_of(batch)) == (
        (2 * 3 * 4 * 8, 2 * 4 * 8),
        ((2, 3, 4, 8), (2, 4, 8)),
    )
