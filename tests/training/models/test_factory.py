import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Checkpointing, Norm, Variant
from bsprobe.training.losses import segmentation_loss, valid_pixels
from bsprobe.training.models.deeplabv2 import DeepLabV2
from bsprobe.training.models.factory import build_model, check_model_name
from bsprobe.training.models.norms import LAYERS
from tests.support.networks import SMALL, without_data
from tests.support.saved_activations import saved_activation_bytes

TORCHVISION_MODELS = (
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:deeplabv3_resnet101",
    "torchvision:deeplabv3_resnet50",
    "torchvision:fcn_resnet101",
    "torchvision:fcn_resnet50",
    "torchvision:lraspp_mobilenet_v3_large",
)
DEEPLABV2 = ("deeplabv2-resnet50", "deeplabv2-resnet101", "deeplabv2-mini")


def norm_layers(model: nn.Module) -> set[type[nn.Module]]:
    """The classes of all normalisation layers of a model."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, *LAYERS.values())
    return {type(module) for module in model.modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("norm", LAYERS)
@pytest.mark.parametrize("name", [*DEEPLABV2, *TORCHVISION_MODELS])
def test_a_model_is_built_in_its_norm_alone(name: str, norm: Norm) -> None:
    model = without_data(name, norm=norm)

    expected = nn.SyncBatchNorm if norm is Norm.SYNC_BATCH else LAYERS[norm]
    assert norm_layers(model) == {expected}
    assert model.training


@pytest.mark.parametrize("name", TORCHVISION_MODELS)
def test_torchvision_models_but_lraspp_train_with_an_auxiliary_head(name: str) -> None:
    outputs = without_data(name, classes=7)(torch.empty((2, 3, 64, 96), device="meta"))

    heads = ["out"] if name.startswith("torchvision:lraspp") else ["out", "aux"]
    assert {key: logits.shape for key, logits in outputs.items()} == dict.fromkeys(
        heads, (2, 7, 64, 96)
    )


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        build_model(Variant(model="DeepLabV2-resnet11", resolution=SMALL))

    assert (str(caught.value), caught.value.hint) == (
        "--model: 'DeepLabV2-resnet11' is unknown",
        (
            "did you mean deeplabv2-resnet101? "
            "Known: deeplabv2-resnet50, deeplabv2-resnet101, deeplabv2-mini, torchvision:NAME, "
            "timm:NAME, smp:ARCHITECTURE, hf:CONFIG.json, PACKAGE.MODULE:NAME"
        ),
    )


@pytest.mark.parametrize("name", ["torchvision:fcn_resnet5", "torchvision:fcn_resnet_50"])
def test_an_unknown_torchvision_model_suggests_the_nearest(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_model_name(name)

    hint = str(caught.value.hint)
    assert str(caught.value) == f"--model: '{name}' is unknown"
    assert hint.startswith("did you mean torchvision:fcn_resnet50? There are ")
    assert ", such as torchvision:fcn_resnet101, torchvision:" in hint


@pytest.mark.parametrize("name", ["torchvision:raft_small", "torchvision:r3d_18"])
def test_a_torchvision_model_for_another_task_is_unknown(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is unknown"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["deeplabv2-resnet101", "torchvision:fcn_resnet101"])
def test_activations_of_a_frozen_net_without_loaded_weights_stay_far_inside_fp16(
    name: str,
) -> None:
    model = build_model(Variant(model=name, resolution=SMALL, norm=Norm.FROZEN))
    largest: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _, inputs: largest.append(inputs[0].abs().max().item())
            )

    with torch.no_grad():
        model(torch.randn((2, 3, 32, 32)))

    assert max(largest) < 100


def test_mini_is_the_same_network_with_one_block_a_stage_and_a_quarter_of_the_width() -> None:
    model = build_model(Variant(model="deeplabv2-mini", resolution=SMALL))

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}

    assert isinstance(model, DeepLabV2)
    assert model(torch.zeros(1, 3, 64, 128)).shape == (1, 19, 9, 17)
    assert sum(p.numel() for p in model.parameters()) == 856_668
    assert shapes["conv1.weight"] == (16, 3, 7, 7)
    assert shapes["layer4.0.conv3.weight"] == (512, 128, 1, 1)
    assert [name for name in shapes if ".1.conv" in name] == []


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("deeplabv2-resnet50", ["Bottleneck"] * 16),
        ("deeplabv2-resnet101", ["Bottleneck"] * 33),
        ("torchvision:fcn_resnet50", ["Bottleneck"] * 16),
        ("torchvision:deeplabv3_resnet101", ["Bottleneck"] * 33),
        ("torchvision:lraspp_mobilenet_v3_large", ["InvertedResidual"] * 15),
    ],
)
def test_checkpointing_recomputes_every_residual_block_and_nothing_else(
    name: str, blocks: list[str]
) -> None:
    recomputed = [
        [
            type(module).__name__
            for module in without_data(name, checkpointing=checkpointing).modules()
            if isinstance(module.forward, functools.partial)
        ]
        for checkpointing in (Checkpointing.OFF, Checkpointing.ON)
    ]

    assert recomputed == [[], blocks]


@pytest.mark.parametrize("name", ["deeplabv2-resnet50", "torchvision:lraspp_mobilenet_v3_large"])
def test_checkpointing_changes_neither_loss_nor_gradients(name: str) -> None:
    variant = Variant(model=name, resolution=SMALL, norm=Norm.GROUP)
    plain = build_model(variant)
    for parameter in plain.parameters():
        if not parameter.any():
            nn.init.constant_(parameter, 0.5)  # zeroed norms would hide the blocks' gradients
    recomputing = build_model(replace(variant, checkpointing=Checkpointing.ON))
    recomputing.load_state_dict(plain.state_dict())

    torch.testing.assert_close(loss_and_gradients(recomputing), loss_and_gradients(plain))


def loss_and_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    images = torch.randn((2, 3, 32, 32))
    labels = torch.randint(0, 19, (2, 32, 32))
    loss = segmentation_loss(model(images), labels, valid_pixels(labels))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize(
    ("name", "most"), [("deeplabv2-resnet101", 0.4), ("torchvision:fcn_resnet50", 0.7)]
)
def test_checkpointing_saves_less_for_the_backward_pass(name: str, most: float) -> None:
    variant = Variant(model=name, resolution=Resolution(height=512, width=1024))

    plain = saved_activation_bytes(variant, "cpu")
    recomputing = saved_activation_bytes(replace(variant, checkpointing=Checkpointing.ON), "cpu")

    assert 0 < recomputing < most * plain
