"""Completion of variants from their networks."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bsprobe.records.matrix import matrix
from bsprobe.records.units import Resolution
from bsprobe.records.variants import DEFAULT_RESOLUTION, Variant
from bsprobe.records.workload import OwnParts, Problem
from bsprobe.simulate.trace.completion import all_completed, completed
from tests.support.optional_packages import needs_timm, needs_transformers

SMALL = Resolution(height=64, width=64)


def segments() -> nn.Module:
    return nn.Conv2d(3, 7, 1)


class Classifies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 11)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.stem(x).mean((2, 3)))}


def of_volumes() -> nn.Module:
    return nn.Conv3d(3, 4, 1)


def broken() -> nn.Module:
    return nn.Conv2d(5, 4, 1)


def asked(model: str, own: OwnParts | None = None, size: Resolution | None = SMALL) -> Variant:
    sizes = None if size is None else [size]
    return matrix(models=[model], resolutions=sizes, choices={}, own=own or OwnParts())[0]


@pytest.mark.parametrize(
    ("name", "classes", "problem"),
    [
        ("segments", 7, Problem.SEGMENTATION),
        ("Classifies", 11, Problem.CLASSIFICATION),
        ("broken", 19, Problem.SEGMENTATION),
    ],
)
def test_classes_and_problem_follow_from_the_logits(
    name: str, classes: int, problem: Problem
) -> None:
    found = completed(asked(f"{__name__}:{name}"))

    assert (found.classes, found.problem, found.is_complete) == (classes, problem, True)
    assert completed(found) == found
    with_own_loss = completed(
        asked(f"{__name__}:{name}", OwnParts(loss="tests.support.own_training:loss"))
    )
    assert (with_own_loss.classes, with_own_loss.problem) == (classes, problem)


def test_volumes_have_classes_too() -> None:
    volume = Resolution(height=8, width=8, slices=8)

    assert completed(asked(f"{__name__}:of_volumes", size=volume)).classes == 4


def test_classes_that_were_asked_for_stay_so_that_too_few_logits_are_noticed() -> None:
    own = OwnParts(model_args=(("num_classes", "19"),))

    assert completed(asked(f"{__name__}:segments", own)).classes == 19


def test_a_variant_with_user_supplied_batches_is_left_as_it_is() -> None:
    own = OwnParts(batches="no.such:batch")
    (variant, *_) = matrix(models=["no.such:net"], resolutions=[None], choices={}, own=own)

    assert completed(variant) is variant


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("torchvision:resnet18", (224, 224)),
        ("torchvision:inception_v3", (299, 299)),
        pytest.param("timm:vit_tiny_patch16_384", (384, 384), marks=needs_timm),
    ],
)
def test_a_classifier_has_images_of_the_size_it_is_built_for(
    model: str, size: tuple[int, int]
) -> None:
    found = completed(asked(model, size=None))

    assert (found.size.sides, found.classes) == (size, 1000)


@needs_transformers
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("SegformerForSemanticSegmentation", DEFAULT_RESOLUTION),
        ("SegformerForImageClassification", Resolution(height=96, width=96)),
    ],
)
def test_a_configuration_says_the_size_of_classified_images(
    architecture: str, size: Resolution, tmp_path: Path
) -> None:
    tiny = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}
    content = {"model_type": "segformer", "architectures": [architecture], "image_size": 96, **tiny}
    (tmp_path / "config.json").write_text(json.dumps(content))

    found = completed(asked(f"hf:{tmp_path}/config.json", size=None))

    kind = Problem.CLASSIFICATION if size != DEFAULT_RESOLUTION else Problem.SEGMENTATION
    assert (found.resolution, found.classes, found.problem) == (size, 2, kind)


class OnTheGpu(nn.Module):
    """A network that moves itself to the GPU, and names the GPU in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 1).cuda()
        self.to("cuda")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        logits = self.layer(x + torch.ones(x.shape[-1], device="cuda"))
        return [logits, logits]


def test_a_network_that_names_the_gpu_is_completed_without_one() -> None:
    assert completed(asked(f"{__name__}:OnTheGpu")).classes == 6


def asks(n_channels: int, n_classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_channels, width, 3), nn.Conv2d(width, n_classes, 1))


def test_the_arguments_that_a_factory_receives_are_shown() -> None:
    found = completed(asked(f"{__name__}:asks"))

    assert found.network == f"{__name__}:asks(n_channels=3, n_classes=19)"
    given = OwnParts(model_args=(("n_classes", "2"),))
    fewer = completed(asked(f"{__name__}:asks", given))
    assert (fewer.network, fewer.classes) == (f"{__name__}:asks(n_channels=3, n_classes=2)", 2)


built: list[nn.Module] = []


def counted() -> nn.Module:
    built.append(segments())
    return built[-1]


def test_a_network_is_built_once_for_all_its_variants() -> None:
    variants = matrix(models=[f"{__name__}:counted"], resolutions=[SMALL], choices={})
    built.clear()

    found = all_completed(variants)

    assert len(variants) == 2
    assert len(built) == 1
    assert found == tuple(completed(variant) for variant in variants)
