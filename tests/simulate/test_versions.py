"""Recordings of steps as other versions of PyTorch run them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bsprobe.records.variants import Precision
from bsprobe.simulate.cuda import cuda_dispatch
from bsprobe.simulate.timeline import Action, Kind, Recording, Section
from bsprobe.simulate.versions import INSTALLED, SINCE, Change, Version, has, parsed
from tests.support.tiny_networks import VARIANT
from tests.support.traced_networks import PlainNet, born, tracer_of

LOGIT_BYTES = 2 * 4 * 32 * 48 * 4
"""Bytes of PlainNet's logits, upsampled to the labels, at batch 2."""


class WithSoftmax(PlainNet):
    """A network with a softmax before its classifier."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.softmax(self.features(images), dim=1))
        return logits


def recorded(version: Version, build: type[nn.Module] = PlainNet, **changes: object) -> Recording:
    variant = replace(VARIANT, **changes)  # type: ignore[arg-type] # each of its own type
    return tracer_of(build, variant, version=version).record(2)


def saved(recording: Recording) -> list[int]:
    """Sizes of the tensors that the first step saves for its backward pass."""
    return [size for _, size in savings(recording)]


def savings(recording: Recording) -> list[tuple[str, int]]:
    """Operators and sizes of the tensors that the first step saves for its backward pass."""
    return [
        (place.operator, size)
        for place, kind, size in born(recording)
        if kind is Kind.SAVED_ACTIVATION
    ]


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.14.1+cu130", (2, 14)), ("1.9.0a0+git", (1, 9)), ("2.6", (2, 6))],
)
def test_a_version_is_read_from_its_text(text: str, version: Version) -> None:
    assert parsed(text) == version


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="nightly"):
        parsed("nightly")


def test_the_installed_pytorch_has_every_change_up_to_its_own_version() -> None:
    assert parsed(torch.__version__) == INSTALLED
    assert {each for each in Change if has(INSTALLED, each)} == {
        each for each, since in SINCE.items() if since <= INSTALLED
    }
    assert set(SINCE) == set(Change)


def test_up_to_1_10_the_input_of_log_softmax_is_saved() -> None:
    now, then = saved(recorded((1, 11))), saved(recorded((1, 10)))
    assert now.count(LOGIT_BYTES) == 1
    assert then.count(LOGIT_BYTES) == 2
    assert len(then) == len(now) + 1


def test_up_to_1_10_the_input_of_softmax_is_saved() -> None:
    now, then = (saved(recorded(version, WithSoftmax)) for version in ((1, 11), (1, 10)))
    assert sum(then) - sum(now) == LOGIT_BYTES + 2 * 8 * 8 * 12 * 4


def test_saved_tensors_are_freed_after_the_gradient_is_allocated() -> None:
    recording = recorded((1, 10))
    found = [
        (action, recording.storages[subject][0].operator)
        for action, subject in recording.sections[Section.LATER_STEP]
        if action is not Action.SCRATCH and recording.storages[subject][2] == LOGIT_BYTES
    ]
    assert found[-5:] == [
        (Action.ALLOCATE, "_log_softmax_backward_data"),
        (Action.FREE, "upsample_bilinear2d"),
        (Action.FREE, "_log_softmax"),
        (Action.FREE, "nll_loss2d_backward"),
        (Action.FREE, "_log_softmax_backward_data"),
    ]


class WithReLU6(PlainNet):
    """A network that clamps its features in place."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = nn.functional.relu6(self.features(images), inplace=True)
        logits: torch.Tensor = self.classifier(features)
        return logits


def test_since_1_10_relu6_in_place_saves_a_copy_of_its_input() -> None:
    now, then = (saved(recorded(version, WithReLU6)) for version in ((1, 11), (1, 9)))
    logits = 1  # the input of log_softmax
    assert len(then) - logits == len(now) - 1
    assert sum(then) - LOGIT_BYTES == sum(now) - 2 * 8 * 8 * 12 * 4


def test_the_gradient_of_relu6_is_the_same_in_both_versions() -> None:
    x = torch.linspace(-3, 9, 13)
    for version in ((1, 9), INSTALLED):
        leaf = x.clone().requires_grad_()
        with cuda_dispatch(version):
            nn.functional.relu6(leaf * 1, inplace=True).sum().backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, ((x > 0) & (x < 6)).float())


class WithReLU(PlainNet):
    """A network that applies an out-of-place ReLU to its features and doubles the result."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.relu(self.features(images)) * 2)
        return logits


def test_up_to_1_9_relu_saves_its_input_in_place_of_its_result() -> None:
    now, then = (
        {operator for operator, _ in savings(recorded(version, WithReLU))}
        for version in ((1, 10), (1, 9))
    )
    assert now - then == {"relu"}
    assert then - now == {"convolution"}


def test_the_gradient_of_relu_is_the_same_in_both_versions() -> None:
    x = torch.linspace(-3, 3, 7)
    for version in ((1, 9), INSTALLED):
        leaf = x.clone().requires_grad_()
        with cuda_dispatch(version):
            torch.relu(leaf * 1).sum().backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, (x > 0).float())


@pytest.mark.parametrize(("version", "dtype"), [((1, 9), torch.float32), ((1, 10), torch.float16)])
def test_up_to_1_9_autocast_runs_gelu_in_fp32(version: Version, dtype: torch.dtype) -> None:
    x = torch.zeros(3, dtype=torch.float16)
    with cuda_dispatch(version), torch.autocast("cpu", dtype=torch.float16):
        assert nn.functional.gelu(x).dtype is dtype


def test_until_2_3_autocast_interpolates_in_half_precision() -> None:
    def upsampled(version: Version) -> list[int]:
        found = born(recorded(version, precision=Precision.AMP_FP16))
        return [size for place, _, size in found if place.operator == "upsample_bilinear2d"]

    assert upsampled((2, 4)) == [LOGIT_BYTES]
    assert upsampled((2, 3)) == [LOGIT_BYTES // 2]


def test_until_1_13_each_parameter_is_updated_by_itself() -> None:
    def temporaries(version: Version) -> set[str]:
        found = born(recorded(version), Section.LATER_STEP)
        return {place.operator for place, _, _ in found if place.phase == "optimizer"}

    assert temporaries((2, 0)) == {"_foreach_add"}
    assert temporaries((1, 13)) == {"add"}
