"""Networks that are not ours: torchvision's classifiers, timm's, and your own factories."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Checkpointing, Norm, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.training.models.factory import build_model, check_model_name, check_variant
from bsprobe.training.models.norms import LAYERS
from tests.support.networks import SMALL, without_data
from tests.support.optional_packages import needs_timm

SQUARE = Resolution(height=64, width=64)


def variant_of(model: str, size: Resolution = SMALL, **others: Any) -> Variant:
    return Variant(**{"model": model, "resolution": size, "classes": 7, **others})


def shape_of_logits(variant: Variant) -> tuple[int, ...]:
    with torch.device("meta"):
        size = variant.size
        return tuple(build_model(variant)(torch.empty((2, 3, size.height, size.width))).shape)


def two_layers(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, num_classes, 1))


def no_arguments() -> nn.Module:
    return two_layers(3)


def no_network() -> str:
    return "ResNet"


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("torchvision:resnet18", SMALL),
        ("torchvision:mobilenet_v3_small", SMALL),
        ("torchvision:vit_b_16", SQUARE),
        ("torchvision:swin_t", SMALL),
        ("torchvision:maxvit_t", Resolution(height=224, width=224)),
        ("torchvision:googlenet", SMALL),
        ("torchvision:inception_v3", Resolution(height=96, width=96)),
        pytest.param("timm:resnet18", SMALL, marks=needs_timm),
        pytest.param("timm:vit_tiny_patch16_224", SMALL, marks=needs_timm),
        pytest.param(
            "timm:swin_tiny_patch4_window7_224", Resolution(height=224, width=224), marks=needs_timm
        ),
    ],
)
def test_a_classifier_is_built_for_its_resolution_and_classes(model: str, size: Resolution) -> None:
    assert shape_of_logits(variant_of(model, size)) == (2, 7)


def test_a_classifier_of_torchvision_is_built_in_another_norm() -> None:
    model = build_model(variant_of("torchvision:resnet18", norm=Norm.GROUP))

    norms = [type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__]
    assert norms == ["GroupNorm"] * 20


@pytest.mark.parametrize("name", ["torchvision:vgg11", "torchvision:convnext_tiny"])
def test_a_classifier_without_batch_norm_has_none_to_exchange(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        without_data(name, norm=Norm.GROUP)

    assert (str(caught.value), caught.value.hint) == (
        f"--norm group: {name} has other norms than BatchNorm2d, or none",
        "add --norm batch, which leaves it alone",
    )


def test_a_vision_transformer_of_torchvision_wants_square_images() -> None:
    with pytest.raises(UsageError, match="--resolution 64x96: torchvision:vit_b_16 takes square"):
        build_model(variant_of("torchvision:vit_b_16"))


@needs_timm
def test_an_unknown_network_of_timm_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check_model_name("timm:resnet5")

    assert str(caught.value) == "--model: 'timm:resnet5' is unknown"
    assert str(caught.value.hint).startswith("did you mean timm:resnet")


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)

    with pytest.raises(UsageError) as caught:
        check_model_name("timm:resnet18")

    assert (str(caught.value), caught.value.hint) == (
        "--model timm:NAME needs the package timm, which is not installed",
        "pip install timm",
    )


@pytest.mark.parametrize(
    ("factory", "channels"), [(two_layers, 7), (no_arguments, 3)], ids=["classes", "nothing"]
)
def test_a_factory_is_told_the_classes_where_it_takes_them(
    factory: Callable[..., nn.Module], channels: int
) -> None:
    name = f"{factory.__module__}:{factory.__name__}"

    assert shape_of_logits(variant_of(name))[:2] == (2, channels)


def test_classes_that_a_factory_does_not_take_are_those_of_the_labels() -> None:
    own = OwnParts(model_args=(("num_classes", "3"),))

    assert shape_of_logits(variant_of(f"{__name__}:no_arguments", own=own, classes=3))[:2] == (2, 3)


def test_a_factory_must_make_a_network() -> None:
    with pytest.raises(UsageError, match=r"it made a str, not an nn\.Module"):
        build_model(variant_of(f"{__name__}:no_network"))


def test_a_network_whose_blocks_are_unknown_cannot_be_checkpointed() -> None:
    with pytest.raises(UsageError, match=r"--checkpointing on: .* no blocks") as caught:
        build_model(variant_of(f"{__name__}:two_layers", checkpointing=Checkpointing.ON))

    assert "--checkpoint-blocks" in str(caught.value.hint)


MODULE = "tests.support.own_training"
OWN = f"{MODULE}:network"


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (
            variant_of(f"{MODULE}:Named", norm=Norm.GROUP),
            (
                f"--norm group: {MODULE}:Named keeps the norm it is built with: it takes no "
                "norm_layer"
            ),
        ),
        (
            variant_of(OWN, own=OwnParts(model_args=(("wdth", "3"),))),
            f"--model {OWN}(wdth=3): got an unexpected keyword argument 'wdth'",
        ),
        (
            variant_of(f"{MODULE}:none"),
            f"--model {MODULE}:none: module '{MODULE}' has no attribute 'none'",
        ),
        (
            variant_of(OWN, own=OwnParts(batches=f"{MODULE}:none")),
            f"--batch-from {MODULE}:none: module '{MODULE}' has no attribute 'none'",
        ),
        (
            variant_of("deeplabv2-mini", channels=4),
            "--input: deeplabv2-mini takes images of 3 channels, not 4",
        ),
        (
            variant_of("torchvision:resnet18", channels=4),
            "--input: torchvision:resnet18 takes images of 3 channels, not 4",
        ),
        (
            variant_of("deeplabv2-mini", own=OwnParts(model_args=(("depth", "3"),))),
            "--model-arg: deeplabv2-mini takes num_classes alone",
        ),
    ],
)
def test_what_a_variant_names_must_fit_together(variant: Variant, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_variant(variant)

    assert str(caught.value) == why


def test_arguments_go_before_what_is_told() -> None:
    own = OwnParts(model_args=(("in_channels", "1"), ("num_classes", "2"), ("width", "4")))

    model = build_model(variant_of(OWN, own=own))

    assert [tuple(p.shape)[:2] for p in model.parameters()] == [
        (4, 1), (4,), (4,), (4,), (2, 4), (2,),
    ]  # fmt: skip


def test_norms_are_exchanged_through_norm_layer_and_batch_leaves_them_alone() -> None:
    kinds = [
        type(list(build_model(variant_of(OWN, norm=norm)).children())[1])
        for norm in (Norm.BATCH, Norm.GROUP)
    ]

    assert kinds == [nn.BatchNorm2d, LAYERS[Norm.GROUP]]


@needs_timm
def test_arguments_reach_the_networks_of_torchvision_and_of_timm() -> None:
    seen = [
        shape_of_logits(variant_of(name, own=OwnParts(model_args=(("num_classes", "11"),))))
        for name in ("torchvision:resnet18", "timm:resnet18")
    ]
    with pytest.raises(UsageError, match=r"--model-arg: torchvision:resnet18\(foo=1\): "):
        without_data("torchvision:resnet18", own=OwnParts(model_args=(("foo", "1"),)))

    assert seen == [(2, 11), (2, 11)]


@needs_timm
def test_a_network_of_timm_is_built_for_other_channels() -> None:
    model = without_data("timm:resnet18", channels=5)

    assert next(model.parameters()).shape[1] == 5
