"""Batches of the user's own: made, checked, moved, fed."""

import pytest
import torch
from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.training.own_batches import OwnBatch, own_batch

CPU = torch.device("cpu")
PARTS = "tests.support.own_training"


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - b


@pytest.mark.parametrize(
    "inputs",
    [
        {"b": torch.tensor([1.0]), "a": torch.tensor([3.0])},
        (torch.tensor([3.0]), torch.tensor([1.0])),
        [torch.tensor([3.0]), torch.tensor([1.0])],
    ],
    ids=["by name", "tuple", "list"],
)
def test_inputs_are_passed_by_name_or_by_place(inputs: object) -> None:
    outputs = OwnBatch(inputs=inputs, targets=None).outputs_of(Sum())

    assert outputs.tolist() == [2.0]


def test_equal_seeds_make_equal_batches_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()

    one, two, other = (own_batch(f"{PARTS}:batch", 2, seed=seed) for seed in (1, 1, 2))

    assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_laid_out_and_what_is_there_twice_is_moved_once() -> None:
    made = own_batch(f"{PARTS}:named_batch", 2, seed=0)

    moved = made.to(CPU, torch.channels_last)

    images = moved.inputs["images"]
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, made.inputs["images"])
    assert moved.targets[0] is images


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{PARTS}:fixed_batch", r"asked for 2, it made inputs of \[\(7, 3, 64, 64\)\]"),
        (f"{PARTS}:only_inputs", "it made a Tensor, not inputs and targets"),
    ],
)
def test_what_is_no_batch_of_that_size_is_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        own_batch(name, 2, seed=0)
