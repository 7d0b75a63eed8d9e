"""Logits and losses in the outputs of networks."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

from bsprobe.training.outputs import auxiliary_of, logits_of, loss_in, returns_loss

LOGITS = torch.randn(2, 5, 4, 4)
OTHER = torch.randn(2, 5, 4, 4)
LOSS = torch.tensor(0.5)


class Outputs(NamedTuple):
    logits: torch.Tensor
    aux_logits: torch.Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """A mapping whose entries are also attributes, as in transformers."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclass
class Found:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        {"out": LOGITS, "aux": OTHER},
        {"logits": LOGITS},
        ModelOutput(logits=LOGITS, hidden=OTHER),
        (LOGITS, OTHER),
        [LOGITS, OTHER],
        ({"out": LOGITS}, OTHER),
        Outputs(LOGITS, OTHER),
        Found(LOGITS),
    ],
    ids=lambda outputs: type(outputs).__name__,
)
def test_logits_are_found_in_what_a_network_returns(outputs: object) -> None:
    assert logits_of(outputs) is LOGITS
    assert loss_in(outputs) is None
    assert not returns_loss(outputs)


@pytest.mark.parametrize(
    "outputs",
    [
        {"loss": LOSS, "logits": LOGITS},
        ModelOutput(loss=LOSS, logits=LOGITS),
        (LOSS, LOGITS),
        Found(LOGITS, LOSS),
    ],
    ids=lambda outputs: type(outputs).__name__,
)
def test_a_loss_that_the_network_computed_is_found(outputs: object) -> None:
    assert loss_in(outputs) is LOSS
    assert returns_loss(outputs)


def test_the_losses_of_a_detector_are_added_up() -> None:
    losses = {"loss_classifier": torch.tensor(1.5), "loss_box_reg": torch.tensor(0.25)}

    assert loss_in(losses) == torch.tensor(1.75)
    assert loss_in({}) is None
    assert (returns_loss(losses), returns_loss({})) == (True, False)


def test_only_a_dict_has_an_auxiliary_head() -> None:
    assert auxiliary_of({"out": LOGITS, "aux": OTHER}) is OTHER
    assert auxiliary_of({"out": LOGITS}) is auxiliary_of(LOGITS) is None
