"""Activation checkpointing: the chosen blocks, and the effect of recomputing them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models

from bsprobe.records.checkpointing import CheckpointWay
from bsprobe.records.errors import UsageError
from bsprobe.training.models.checkpointing import apply_checkpointing, checkpointed_parts
from tests.support import home_made
from tests.support.optional_packages import needs_timm

UNET = ("down1", "down2", "down3", "up2", "up1")
SWIN = (
    "features.1.*", "features.2", "features.3.*", "features.4", "features.5.*", "features.6",
    "features.7.*",
)  # fmt: skip
FOUND: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "unet": (home_made.UNet, UNET),
    "unet of sequences": (home_made.unet_of_sequences, UNET),
    "nested": (
        home_made.nested,
        ("1.down", "1.inside.down", "1.inside.inside.down", "1.inside.inside.up", "1.inside.up",
         "1.up"),
    ),
    "columns": (
        home_made.columns,
        tuple(f"{each}.*" for each in range(4)),
    ),
    "chain of blocks": (home_made.chain_of_blocks, ("*",)),
    "stages of two encoders": (home_made.Siamese, ("left.stages.*", "right.stages.*")),
    "transformer": (home_made.transformer, ("1.layers.*",)),
    "refused by the network": (lambda: home_made.WithMethod(refuses=True), ("*",)),
    "vit": (models.vit_b_16, ("encoder.layers.*",)),
    "swin": (models.swin_t, SWIN),
    "convnext": (
        models.convnext_tiny,
        ("features.1.*", "features.3.*", "features.5.*", "features.7.*", "features.2",
         "features.4", "features.6"),
    ),
    "densenet": (
        models.densenet121,
        ("features.denseblock1", "features.transition1", "features.denseblock2",
         "features.transition2", "features.denseblock3.*", "features.transition3",
         "features.denseblock4"),
    ),
    "efficientnet": (
        models.efficientnet_b0,
        ("features.0", "features.1.0", *(f"features.{each}.*" for each in range(2, 7)),
         "features.7.0", "features.8"),
    ),
}  # fmt: skip
TRAINED = [
    home_made.UNet,
    home_made.unet_of_sequences,
    home_made.nested,
    home_made.long_chain,
    home_made.Siamese,
    home_made.Dense,
    home_made.WithBackbone,
]


@pytest.mark.parametrize("name", FOUND)
def test_the_blocks_of_a_network_are_found(name: str) -> None:
    build, expected = FOUND[name]
    with torch.device("meta"):
        model = build()

    parts = checkpointed_parts(model, None)

    assert tuple(part.modules for part in parts) == expected
    assert {part.way for part in parts} == {CheckpointWay.BLOCK}


@pytest.mark.parametrize("build", [models.vgg16, models.alexnet])
def test_a_sequence_of_bare_layers_runs_in_segments(build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        parts = checkpointed_parts(build(), None)

    assert [(part.modules, part.way) for part in parts] == [
        ("features", CheckpointWay.SEGMENTS),
        ("classifier", CheckpointWay.BLOCK),
    ]


def test_part_of_a_network_uses_its_own_way_and_the_rest_has_its_blocks() -> None:
    model = home_made.WithBackbone()

    apply_checkpointing(model, None)

    assert model.backbone.is_on
    assert [(part.modules, part.way) for part in checkpointed_parts(model, None)] == [
        ("backbone", CheckpointWay.TIMM),
        ("first", CheckpointWay.BLOCK),
        ("second", CheckpointWay.BLOCK),
    ]
    assert "forward" not in vars(model.backbone.stem)


@needs_timm
def test_a_network_of_timm_uses_its_own_method() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12)

    apply_checkpointing(model, None)

    assert model.grad_checkpointing
    assert [part.way for part in checkpointed_parts(model, None)] == [CheckpointWay.TIMM]


def test_a_network_of_transformers_uses_its_own_method_without_reentrance() -> None:
    asked: list[object] = []

    class Pretrained(home_made.UNet):
        def gradient_checkpointing_enable(
            self, gradient_checkpointing_kwargs: dict[str, object]
        ) -> None:
            asked.append(gradient_checkpointing_kwargs)

    apply_checkpointing(model := Pretrained(), None)

    assert asked == [{"use_reentrant": False}]
    assert [part.way for part in checkpointed_parts(model, None)] == [CheckpointWay.TRANSFORMERS]


def result_of(model: nn.Module) -> tuple[torch.Tensor, list[torch.Tensor | None], int]:
    """The loss, the gradients, and the bytes that the forward pass saves."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.randn(2, 3, 16, 16)).square().mean()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], sum(kept.values())


@pytest.mark.parametrize("build", TRAINED)
def test_recomputing_changes_neither_loss_nor_gradients_and_keeps_less(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    plain = build()
    recomputing = build()
    recomputing.load_state_dict(plain.state_dict())
    apply_checkpointing(recomputing, None)

    expected, found = result_of(plain), result_of(recomputing)

    torch.testing.assert_close(found[:2], expected[:2])
    assert 0 < found[2] < expected[2]


def test_recomputed_blocks_update_the_statistics_of_batch_norm_twice() -> None:
    counts = []
    for recomputes in (False, True):
        model = home_made.UNet()
        if recomputes:
            apply_checkpointing(model, None)
        result_of(model)
        counts.append(int(model.down1.layers[1].num_batches_tracked))
    assert counts == [1, 2]


@pytest.mark.parametrize(
    ("patterns", "changed"),
    [
        ("down*", ["down1", "down2", "down3"]),
        ("down1.layers.*,up1", ["down1.layers.0", "down1.layers.3", "up1"]),
        ("up?.layers", ["up1.layers", "up2.layers"]),
    ],
)
def test_patterns_name_the_modules_and_only_the_outermost(
    patterns: str, changed: list[str]
) -> None:
    model = home_made.UNet()
    apply_checkpointing(model, patterns)

    found = [name for name, module in model.named_modules() if "forward" in vars(module)]

    assert set(changed) <= set(found)
    assert not any(other.startswith(f"{name}.") for name in found for other in found)


def test_patterns_go_before_a_way_of_the_networks_own() -> None:
    model = home_made.WithBackbone()
    apply_checkpointing(model, "backbone.stem")

    assert not model.backbone.is_on
    assert "forward" in vars(model.backbone.stem)


def test_a_pattern_does_not_match_a_list_of_modules() -> None:
    model = home_made.Encoder()
    assert [part.modules for part in checkpointed_parts(model, "stages*")] == ["stages.*"]
    with pytest.raises(UsageError, match="'stages' matches no module"):
        apply_checkpointing(model, "stages")


def test_a_pattern_that_matches_nothing_is_an_error_that_names_modules() -> None:
    with pytest.raises(UsageError, match="--checkpoint-blocks: 'encoder") as caught:
        apply_checkpointing(home_made.UNet(), "down*,encoder*")
    assert "down1, down2" in str(caught.value.hint)


@pytest.mark.parametrize("build", TRAINED)
def test_the_reported_names_select_the_same_modules_as_patterns(
    build: Callable[[], nn.Module],
) -> None:
    first, again = build(), build()
    apply_checkpointing(first, None)
    blocks = [
        part.modules for part in checkpointed_parts(first, None) if part.way is CheckpointWay.BLOCK
    ]
    if blocks:
        apply_checkpointing(again, ",".join(blocks))
        changed = [
            {name for name, module in model.named_modules() if "forward" in vars(module)}
            for model in (first, again)
        ]
        assert changed[0] == changed[1]
