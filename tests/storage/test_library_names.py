"""Tests of the names of networks that are read from the source of packages."""

import pytest
import timm
from torchvision import models

from bsprobe.records.errors import UsageError
from bsprobe.records.workload import BUILT_IN
from bsprobe.storage.library_names import (
    is_former_timm_name,
    timm_networks,
    torchvision_networks,
)
from bsprobe.training.models.factory import check_model_name


def test_torchvision_networks_are_those_that_torchvision_lists() -> None:
    listed = models.list_models(module=models) + models.list_models(module=models.segmentation)
    assert torchvision_networks() == tuple(sorted(listed))


def test_timm_networks_are_those_that_timm_lists_and_former_names_are_known() -> None:
    assert timm_networks() == tuple(sorted(timm.list_models()))
    assert is_former_timm_name("convnext_tiny_in22ft1k")
    assert not is_former_timm_name("resnet19")


def test_the_built_in_networks_are_those_that_the_factory_builds() -> None:
    for name in BUILT_IN:
        check_model_name(name)
    with pytest.raises(UsageError) as refused:
        check_model_name("x")
    assert str(refused.value.hint).startswith(f"choose among {', '.join(BUILT_IN)}, torchvision:")
