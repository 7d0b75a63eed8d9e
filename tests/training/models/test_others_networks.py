"""Networks of torchvision, timm and other packages, and user-supplied factories."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from tests.support.optional_packages import needs_smp, needs_timm, needs_transformers

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


@pytest.mark.parametrize(
    ("name", "has"), [("torchvision:vgg11", "no BatchNorm"), ("torchvision:swin_t", "LayerNorm")]
)
def test_a_classifier_without_batch_norm_has_none_to_exchange(name: str, has: str) -> None:
    with pytest.raises(UsageError, match=f"--norm group: {name} has {has}") as caught:
        without_data(name, norm=Norm.GROUP)

    assert "--norm as-built" in str(caught.value.hint)


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

    assert "--model timm:NAME" in str(caught.value)
    assert caught.value.hint == "pip install timm"


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
    with pytest.raises(UsageError, match=r"a str, not an nn\.Module"):
        build_model(variant_of(f"{__name__}:no_network"))


def test_a_network_whose_blocks_are_unknown_cannot_be_checkpointed() -> None:
    with pytest.raises(UsageError, match=r"--checkpointing on: .* blocks") as caught:
        build_model(variant_of(f"{__name__}:two_layers", checkpointing=Checkpointing.ON))

    assert "--checkpoint-blocks" in str(caught.value.hint)


MODULE = "tests.support.own_training"
OWN = f"{MODULE}:network"


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        (
            variant_of(OWN, own=OwnParts(model_args=(("wdth", "3"),))),
            rf"--model {OWN}\(wdth=3\): .*'wdth'",
        ),
        (
            variant_of(f"{MODULE}:none"),
            f"--model {MODULE}:none: .*'none'",
        ),
        (
            variant_of(OWN, own=OwnParts(batches=f"{MODULE}:none")),
            f"--batch-from {MODULE}:none: .*'none'",
        ),
        (
            variant_of("deeplabv2-mini", channels=4),
            "--input: deeplabv2-mini .*3 channels, not 4",
        ),
        (
            variant_of("torchvision:resnet18", channels=4),
            "--input: torchvision:resnet18 .*3 channels, not 4",
        ),
        (
            variant_of("deeplabv2-mini", own=OwnParts(model_args=(("depth", "3"),))),
            "--model-arg: deeplabv2-mini .*num_classes",
        ),
    ],
)
def test_the_names_and_options_of_a_variant_are_checked(variant: Variant, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_variant(variant)


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


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3), nn.Conv2d(8, 2, 1))


def of_volumes(n_channels: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(n_channels, 4, 3), nn.BatchNorm3d(4), nn.Conv3d(4, n_classes, 1))


ready_made = with_batch_norm()


@pytest.mark.parametrize("name", ["with_batch_norm", "ready_made"])
def test_the_batch_norm_of_any_network_is_exchanged(name: str) -> None:
    model = build_model(variant_of(f"{__name__}:{name}", norm=Norm.GROUP))

    (norm,) = [each for each in model.modules() if type(each) is LAYERS[Norm.GROUP]]
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_channels, norm.eps) == (8, 1e-3)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    norms = [each for each in ready_made.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(norms) == 1  # a trial changes a copy


def test_a_network_takes_no_arguments() -> None:
    own = OwnParts(model_args=(("width", "3"),))
    with pytest.raises(UsageError, match=r"--model-arg width: .*ready_made .*no arguments"):
        check_variant(variant_of(f"{__name__}:ready_made", own=own))


def test_a_factory_is_told_channels_and_classes_by_other_names_and_volumes_have_group_norm() -> (
    None
):
    model = build_model(variant_of(f"{__name__}:of_volumes", channels=2, norm=Norm.GROUP))

    shapes = [tuple(parameter.shape)[:2] for parameter in model.parameters()]
    assert (shapes[0], shapes[-2]) == ((4, 2), (7, 4))
    assert type(list(model.children())[1]) is LAYERS[Norm.GROUP]


@needs_smp
def test_an_architecture_of_segmentation_models_is_built_for_classes_and_channels() -> None:
    variant = variant_of("smp:Unet", SQUARE, channels=4)
    own = OwnParts(model_args=(("encoder_name", "mobilenet_v2"), ("num_classes", "3")))
    with torch.device("meta"):
        images = torch.empty((2, 4, 64, 64))
        shapes = [build_model(each)(images).shape for each in (variant, replace(variant, own=own))]

    assert [tuple(shape) for shape in shapes] == [(2, 7, 64, 64), (2, 3, 64, 64)]
    with pytest.raises(UsageError) as caught:
        check_model_name("smp:Unett")
    assert str(caught.value.hint).startswith("did you mean smp:Unet")


def configuration(folder: Path, **changes: object) -> str:
    tiny = {
        "model_type": "segformer",
        "architectures": ["SegformerForSemanticSegmentation"],
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 8,
        "id2label": {"0": "road", "1": "car", "2": "sky"},
    }
    path = folder / "config.json"
    path.write_text(json.dumps({**tiny, **changes}))
    return f"hf:{path}"


@needs_transformers
def test_a_configuration_of_transformers_is_built_as_it_says(tmp_path: Path) -> None:
    name = configuration(tmp_path)
    own = OwnParts(model_args=(("num_classes", "5"),))
    variant = variant_of(name, SQUARE, classes=None)

    shapes = [
        tuple(build_model(each)(torch.zeros(2, 3, 64, 64)).logits.shape)
        for each in (variant, replace(variant, own=own))
    ]

    assert shapes == [(2, 3, 16, 16), (2, 5, 16, 16)]


@needs_transformers
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "the file has no model_type"),
        ('{"model_type": 3}', "the file has no model_type"),
        ('{"model_type": "no-such-model"}', "no-such-model"),
        ('{"model_type": "gpt2", "n_layer": 1}', "no architecture"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    content: str | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(UsageError, match=f"--model hf:{path}: .*{why}"):
        build_model(variant_of(f"hf:{path}", classes=None))


class Shared(nn.Module):
    """One norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.BatchNorm2d(4)
        self.two = self.one


def test_a_norm_that_is_there_twice_stays_one() -> None:
    model = build_model(variant_of(f"{__name__}:Shared", norm=Norm.GROUP))

    assert isinstance(model, Shared)
    assert type(model.one) is LAYERS[Norm.GROUP]
    assert model.two is model.one
