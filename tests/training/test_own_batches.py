"""User-supplied batches: making, checking and moving them, and passing them to a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from bsprobe.records.batch_forms import BatchForm, Call, TargetsAre
from bsprobe.records.errors import UsageError
from bsprobe.training.losses import NetworkLoss
from bsprobe.training.own_batches import OwnBatch, own_batch
from tests.support import own_training

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
        (f"{PARTS}:fixed_batch", r" 2, .*\(7, 3, 64, 64\)"),
        (f"{PARTS}:only_inputs", "a Tensor, not inputs and targets"),
    ],
)
def test_something_else_than_a_batch_of_that_size_is_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"--batch-from {name}: .*{why}"):
        own_batch(name, 2, seed=0)


class Images(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class WithLoss(nn.Module):
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (pixel_values.mean() - labels.float().mean()) ** 2}


@dataclass(frozen=True)
class Sample:
    image: torch.Tensor
    mask: torch.Tensor
    name: str = "frankfurt"


class Pair(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor


class Triple(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor
    name: str = "frankfurt"


class Moving:
    """An object with a `to` method."""

    def __init__(self, image: torch.Tensor, mask: torch.Tensor) -> None:
        self.image, self.mask = image, mask

    def to(self, device: torch.device) -> "Moving":
        return Moving(self.image.to(device), self.mask.to(device))


FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "dict": lambda image, mask: {"image": image, "mask": mask, "name": ["a", "b"], "spacing": 0.5},
    "dataclass": Sample,
    "named tuple": Triple,
    "pair": Pair,
    "object": Moving,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_may_be_one_thing_with_its_labels_inside(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    monkeypatch.setattr(own_training, "batch", lambda _: FORMS[form](image, mask))

    made = own_batch(f"{PARTS}:batch", 2, seed=0).to(CPU, torch.channels_last)

    assert torch.equal(made.targets, mask)
    outputs = made.outputs_of(Images())
    assert torch.equal(outputs, 2 * image)
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_a_network_that_takes_the_labels_is_given_them_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = {"pixel_values": torch.ones(2, 3), "labels": torch.zeros(2), "name": ["a", "b"]}
    monkeypatch.setattr(own_training, "batch", lambda _: fields)

    made = own_batch(f"{PARTS}:batch", 2, seed=0)

    outputs = made.outputs_of(WithLoss())
    assert NetworkLoss()(outputs, made.targets, 2) == torch.tensor(0.5)


def test_lists_of_images_and_targets_go_to_a_detector_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [torch.ones(3, 4, 5), torch.ones(3, 6, 7)]
    targets = [{"boxes": torch.zeros(1, 4)}, {"boxes": torch.ones(2, 4)}]
    monkeypatch.setattr(own_training, "batch", lambda _: (images, targets))
    seen: list[object] = []

    made = own_batch(f"{PARTS}:batch", 2, seed=0)
    made.outputs_of(lambda *given: seen.extend(given))

    assert [len(each) for each in seen if isinstance(each, list)] == [2, 2]
    with pytest.raises(UsageError, match=r" 3, .*list of 2 images"):
        own_batch(f"{PARTS}:batch", 3, seed=0)


class Holder(NamedTuple):
    pair: Pair
    rest: tuple[Moving, ...]


def test_tensors_are_exchanged_in_named_tuples_dataclasses_and_objects_alike() -> None:
    one = torch.ones(1)
    inputs = Holder(Pair(one, one), (Moving(one, one),))

    mapped = OwnBatch(inputs=inputs, targets=Sample(one, one)).mapped(lambda tensor: 3 * tensor)

    assert isinstance(mapped.inputs, Holder)
    assert isinstance(mapped.targets, Sample)
    moved = mapped.inputs.rest[0]
    found = (*mapped.inputs.pair, moved.image, moved.mask, mapped.targets.image)
    assert [tensor.item() for tensor in found] == [3.0] * 5
    assert (one.item(), inputs.rest[0].image.item()) == (1.0, 1.0)


def test_images_that_lie_deeper_in_a_batch_have_no_simple_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, mask = torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    forms = []
    for made in ({"data": {"image": image}, "mask": mask}, {"data": image, "mask": mask}):
        monkeypatch.setattr(own_training, "batch", lambda _, made=made: made)
        forms.append(own_batch(f"{PARTS}:batch", 2, seed=0).form_for(Images()))

    assert forms == [
        None,
        BatchForm(
            call=Call.FIELD,
            targets=TargetsAre.PIXELS,
            fields=("data",),
            labels=("mask",),
            sized="data",
        ),
    ]
