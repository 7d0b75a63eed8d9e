"""Operators outside the modules of a network belong to its loss or to the network itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.explanations import LOSS, NETWORK
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Kind, Phase, Recording
from tests.support.tiny_networks import VARIANT
from tests.support.traced_networks import PlainNet, tracer_of


def batch(size: int) -> dict[str, torch.Tensor]:
    labels = torch.zeros(size, 8, 12, dtype=torch.int64)
    return {"images": torch.zeros(size, 3, 32, 48), "labels": labels}


def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(size, 3, 32, 48), torch.zeros(size, 4, 8, 12)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.sigmoid() * targets).mean()


class NetWithLoss(PlainNet):
    """A network that returns its loss, computed after its last part."""

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override] # takes the labels too
        logits = super().forward(images)
        return {"loss": F.cross_entropy(logits.tanh(), labels), "logits": logits}


class NetWithOwnWeight(nn.Module):
    """A network without parts, with a parameter of its own and its own loss."""

    def __init__(self, _: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 4, 4))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(F.conv2d(images, self.weight, stride=4), labels)}


def operators(recording: Recording, module: str, phase: Phase) -> set[str]:
    """Return the operators that allocate in a module and a phase."""
    places = [place for place, _, _ in recording.storages]
    places += [scratch.place for scratch in recording.scratches]
    return {place.operator for place in places if (place.module, place.phase) == (module, phase)}


CROSS_ENTROPY = {"_log_softmax", "nll_loss2d_forward"}
OWN = f"{__name__}:"


def test_cross_entropy_is_the_loss_in_both_passes() -> None:
    recording = tracer_of(PlainNet).record(2)
    forward = operators(recording, LOSS, Phase.FORWARD)
    assert forward >= {*CROSS_ENTROPY, "upsample_bilinear2d"}
    backward = operators(recording, LOSS, Phase.BACKWARD)
    assert backward >= {"nll_loss2d_backward", "upsample_bilinear2d_backward"}
    assert {place.module for place, _, _ in recording.storages if place.phase is Phase.FORWARD} == {
        *("features", "classifier", NETWORK, LOSS)
    }
    assert operators(recording, NETWORK, Phase.FORWARD) == {"relu"}
    assert operators(recording, NETWORK, Phase.BACKWARD) == {"threshold_backward"}


def test_a_loss_of_the_user_is_the_loss_in_both_passes() -> None:
    own = OwnParts(batches=f"{OWN}pair", loss=f"{OWN}loss")
    recording = tracer_of(PlainNet, replace(VARIANT, own=own)).record(2)
    assert operators(recording, LOSS, Phase.FORWARD) >= {"sigmoid", "mul", "mean"}
    assert "sigmoid_backward" in operators(recording, LOSS, Phase.BACKWARD)


def test_a_loss_that_the_network_returns_begins_after_its_last_part() -> None:
    variant = replace(VARIANT, own=OwnParts(batches=f"{OWN}batch"))
    recording = tracer_of(NetWithLoss, variant).record(2)
    assert operators(recording, LOSS, Phase.FORWARD) >= {"tanh", *CROSS_ENTROPY}
    assert operators(recording, LOSS, Phase.BACKWARD) >= {"tanh_backward", "nll_loss2d_backward"}
    assert operators(recording, NETWORK, Phase.FORWARD) == {"relu"}


def test_a_network_without_parts_is_not_taken_for_its_loss() -> None:
    variant = replace(VARIANT, own=OwnParts(batches=f"{OWN}batch"))
    recording = tracer_of(NetWithOwnWeight, variant).record(2)
    own = {kind for place, kind, _ in recording.storages if place.module == NETWORK}
    assert own >= {Kind.PARAMETER, Kind.GRADIENT}
    assert "convolution" in operators(recording, NETWORK, Phase.FORWARD)
    assert "convolution" not in operators(recording, LOSS, Phase.FORWARD)


@pytest.mark.parametrize("phase", [Phase.SETUP, Phase.OPTIMIZER])
def test_neither_the_batch_nor_the_update_is_the_loss(phase: Phase) -> None:
    recording = tracer_of(PlainNet).record(2)
    assert operators(recording, LOSS, phase) == set()
    assert operators(recording, "", phase) != set()
