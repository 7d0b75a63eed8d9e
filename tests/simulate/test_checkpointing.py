"""Recomputed blocks of any network are predicted to take less memory."""

from dataclasses import replace

import pytest

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.checkpointing import CheckpointWay
from bsprobe.records.gpus import find_gpu
from bsprobe.records.trials import Measurement, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Checkpointing, Precision, Variant
from tests.support.optional_packages import needs_timm

CARD = find_gpu("RTX 3090")
SIZE = Resolution(height=128, width=128)
ATTRIBUTES = "tests.support.home_made:UNet"


def predicted(variant: Variant) -> Measurement:
    spec = TrialSpec(variant=variant, batch_size=8)
    return SimulatedDevice(CARD, None).run_trial(spec, lambda _: None)


@pytest.mark.parametrize(
    ("model", "way"),
    [
        (ATTRIBUTES, CheckpointWay.BLOCK),
        ("tests.support.home_made:nested", CheckpointWay.BLOCK),
        pytest.param("torchvision:vgg11", CheckpointWay.SEGMENTS, marks=pytest.mark.nightly),
        pytest.param("torchvision:swin_t", CheckpointWay.BLOCK, marks=pytest.mark.nightly),
        pytest.param("torchvision:densenet121", CheckpointWay.BLOCK, marks=pytest.mark.nightly),
        pytest.param("torchvision:convnext_tiny", CheckpointWay.BLOCK, marks=pytest.mark.nightly),
        pytest.param("torchvision:vit_b_16", CheckpointWay.BLOCK, marks=pytest.mark.nightly),
        pytest.param("torchvision:efficientnet_b0", CheckpointWay.BLOCK, marks=pytest.mark.nightly),
        pytest.param(
            "timm:vit_tiny_patch16_224",
            CheckpointWay.TIMM,
            marks=[needs_timm, pytest.mark.nightly],
        ),
    ],
)
def test_a_network_with_recomputed_blocks_is_predicted_to_take_less(
    model: str, way: CheckpointWay
) -> None:
    classes = None if model.startswith("tests.") else 19
    variant = Variant(model=model, classes=classes, resolution=SIZE, precision=Precision.AMP_FP16)

    plain = predicted(variant)
    recomputing = predicted(replace(variant, checkpointing=Checkpointing.ON))

    assert recomputing.steady.allocated_bytes < plain.steady.allocated_bytes
    assert plain.model.checkpointed == ()
    assert recomputing.model.checkpointed[0].way is way


def test_fewer_blocks_take_more_than_all() -> None:
    variant = Variant(
        model=ATTRIBUTES, classes=None, resolution=SIZE, checkpointing=Checkpointing.ON
    )
    few = replace(variant, own=replace(variant.own, checkpoint_blocks="up1"))

    found = predicted(few)

    assert found.steady.allocated_bytes > predicted(variant).steady.allocated_bytes
    assert [each.modules for each in found.model.checkpointed] == ["up1"]
