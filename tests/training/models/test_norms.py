import copy
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Norm, Precision, Variant
from bsprobe.training.models.norms import (
    LAYERS,
    FrozenBatchNorm,
    GroupNorm,
    GroupNormAmp,
)
from tests.support.saved_activations import saved_activation_bytes

Layer = TypeVar("Layer", bound=nn.Module)

Function = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def maps() -> torch.Tensor:
    return 3 * torch.randn((4, 64, 7, 5)) + 1


def randomised(layer: Layer) -> Layer:
    """Give scale, shift and statistics values other than the defaults."""
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0)
    return layer


def assert_same(layer: Function, reference: Function, maps: torch.Tensor) -> None:
    """Compare the results and the gradients of two functions of feature maps."""
    results = []
    for function in (layer, reference):
        given = maps.clone().requires_grad_()
        normalised = function(given)
        normalised.pow(3).sum().backward()
        results.append((normalised, given.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", LAYERS)
def test_each_layer_can_stand_where_a_batch_norm_stood(norm: Norm, maps: torch.Tensor) -> None:
    layer = LAYERS[norm](64, eps=0.001, momentum=0.01)

    normalised = layer(maps)

    assert layer.eps == 0.001
    assert isinstance(layer, nn.BatchNorm2d) == (norm in (Norm.BATCH, Norm.SYNC_BATCH))
    assert (normalised.shape, normalised.dtype) == (maps.shape, torch.float32)


@pytest.mark.parametrize(
    ("width", "groups"),
    [(2048, 32), (64, 32), (32, 32), (16, 16), (24, 8), (40, 8), (72, 8), (3, 1)],
)
def test_groups_are_32_or_the_largest_common_divisor_of_narrower_widths(
    width: int, groups: int
) -> None:
    assert (GroupNorm(width).num_groups, GroupNormAmp(width).num_groups) == (groups, groups)


@pytest.mark.parametrize("norm", [Norm.GROUP, Norm.GROUP_AMP])
def test_group_norms_compute_what_pytorchs_does(norm: Norm, maps: torch.Tensor) -> None:
    layer = randomised(LAYERS[norm](64, eps=0.01))
    weight, bias = layer.parameters()

    assert_same(layer, lambda x: F.group_norm(x, 32, weight, bias, 0.01), maps)


def test_instance_norm_learns_a_scale_and_shift_and_keeps_no_statistics(
    maps: torch.Tensor,
) -> None:
    layer = randomised(LAYERS[Norm.INSTANCE](64, eps=0.01))
    weight, bias = layer.parameters()

    assert_same(layer, lambda x: F.instance_norm(x, weight=weight, bias=bias, eps=0.01), maps)
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("norm", [Norm.GROUP, Norm.GROUP_AMP, Norm.INSTANCE, Norm.FROZEN])
def test_an_image_does_not_depend_on_the_others_of_its_batch(
    norm: Norm, maps: torch.Tensor
) -> None:
    layer = randomised(LAYERS[norm](64))

    torch.testing.assert_close(layer(maps)[:1], layer(maps[:1]))


def test_a_frozen_norm_and_its_gradient_are_those_of_batch_norm_in_evaluation(
    maps: torch.Tensor,
) -> None:
    reference = randomised(nn.BatchNorm2d(64, eps=0.001)).eval()
    frozen = FrozenBatchNorm(64, eps=0.001)
    frozen.load_state_dict(reference.state_dict())

    assert_same(frozen, reference, maps)


def test_a_frozen_norm_learns_nothing_and_keeps_its_statistics_in_training(
    maps: torch.Tensor,
) -> None:
    frozen = randomised(FrozenBatchNorm(64)).train()
    before = copy.deepcopy(frozen.state_dict())

    frozen(maps.requires_grad_()).sum().backward()

    assert list(frozen.parameters()) == []
    assert list(before) == ["weight", "bias", "running_mean", "running_var"]
    torch.testing.assert_close(dict(frozen.state_dict()), dict(before), rtol=0, atol=0)


def test_a_frozen_norm_without_loaded_weights_halves_even_if_its_weight_is_reset_to_1(
    maps: torch.Tensor,
) -> None:
    frozen = FrozenBatchNorm(64)
    nn.init.ones_(frozen.weight)  # as torchvision's nets do when they are built

    torch.testing.assert_close(frozen(maps), maps / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", [Norm.GROUP_AMP, Norm.FROZEN])
def test_norms_made_for_amp_keep_the_dtype_of_their_input(
    norm: Norm, dtype: torch.dtype, maps: torch.Tensor
) -> None:
    layer = randomised(LAYERS[norm](64))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        normalised = layer(maps.to(dtype))

    assert normalised.dtype == dtype
    torch.testing.assert_close(normalised.float(), layer(maps), rtol=0.02, atol=0.05)


def test_group_norm_for_amp_still_learns_in_full_precision(maps: torch.Tensor) -> None:
    layer = GroupNormAmp(64)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(maps.bfloat16()).float().pow(2).sum().backward()

    gradients = {name: p.grad.dtype for name, p in layer.named_parameters() if p.grad is not None}
    assert gradients == {"weight": torch.float32, "bias": torch.float32}


@pytest.mark.skipif(
    torch.__version__ < "2.7",
    reason="before 2.7 fake CUDA tensors draw random numbers on a real GPU",
)
@pytest.mark.parametrize(
    ("norm", "precision", "gib"),
    [
        (Norm.BATCH, Precision.FP32, 3.54),
        (Norm.GROUP, Precision.FP32, 3.54),
        (Norm.GROUP_AMP, Precision.FP32, 3.54),
        (Norm.INSTANCE, Precision.FP32, 3.54),
        (Norm.FROZEN, Precision.FP32, 1.73),
        (Norm.BATCH, Precision.AMP_FP16, 1.80),
        (Norm.GROUP, Precision.AMP_FP16, 4.48),
        (Norm.GROUP_AMP, Precision.AMP_FP16, 1.80),
        (Norm.INSTANCE, Precision.AMP_FP16, 1.80),
        (Norm.FROZEN, Precision.AMP_FP16, 0.89),
        (Norm.GROUP_AMP, Precision.AMP_BF16, 1.80),
    ],
)
def test_the_norm_decides_how_much_an_image_saves_for_the_backward_pass_on_cuda(
    norm: Norm, precision: Precision, gib: float
) -> None:
    size = Resolution(height=512, width=1024)
    variant = Variant(model="deeplabv2-resnet101", resolution=size, norm=norm, precision=precision)

    assert saved_activation_bytes(variant, "cuda") / GIB == pytest.approx(gib, abs=0.01)
