"""Tests of what follows from a model's name."""

import pytest
from torchvision import models

from bsprobe.records.workload import Problem, is_factory, keeps_own_norm, problem_of


def test_segmentation_and_other_networks_of_torchvision_are_told_apart() -> None:
    segmenting = set(models.list_models(module=models.segmentation))
    others = set(models.list_models(module=models))

    assert {problem_of(f"torchvision:{name}") for name in segmenting} == {Problem.SEGMENTATION}
    assert {problem_of(f"torchvision:{name}") for name in others} == {Problem.CLASSIFICATION}


@pytest.mark.parametrize(
    ("model", "problem", "factory", "own_norm"),
    [
        ("deeplabv2-resnet101", Problem.SEGMENTATION, False, False),
        ("torchvision:fcn_resnet50", Problem.SEGMENTATION, False, False),
        ("torchvision:resnet50", Problem.CLASSIFICATION, False, True),
        ("timm:resnet50", Problem.CLASSIFICATION, False, True),
        ("smp:Unet", Problem.SEGMENTATION, False, True),
        ("hf:segformer/config.json", Problem.SEGMENTATION, False, True),
        ("nets.mine:build", Problem.SEGMENTATION, True, True),
    ],
)
def test_problem_factory_and_norm_follow_from_the_name(
    model: str,
    problem: Problem,
    factory: bool,  # noqa: FBT001 - an expected value
    own_norm: bool,  # noqa: FBT001 - as above
) -> None:
    assert (problem_of(model), is_factory(model), keeps_own_norm(model)) == (
        problem,
        factory,
        own_norm,
    )
