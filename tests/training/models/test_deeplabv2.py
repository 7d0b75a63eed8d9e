import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses
from torchvision.models import resnet50

from bsprobe.records.variants import Norm
from bsprobe.training.models.deeplabv2 import ASPP, BLOCKS, DeepLabV2
from bsprobe.training.models.norms import LAYERS
from tests.support.networks import without_data

BATCH_NORM_ENTRIES = ("weight", "bias", "running_mean", "running_var")
DILATIONS = (6, 12, 18, 24)


def shallow(norm: Norm = Norm.BATCH, *, seed: int = 0) -> DeepLabV2:
    """A network of the full width with one block in each stage."""
    torch.manual_seed(seed)
    return DeepLabV2((1, 1, 1, 1), classes=19, norm=LAYERS[norm])


@pytest.fixture
def fresh() -> DeepLabV2:
    """A newly initialised shallow network."""
    return shallow()


# torchvision's ResNets have 25 557 032 and 44 549 160 parameters, 2 049 000 of them in the
# classifier; ASPP has 4 * (2048 * 9 + 1) * 19, the norms of ResNet-101 have 105 344.
@pytest.mark.parametrize(
    ("backbone", "norm", "parameters"),
    [
        ("resnet50", Norm.BATCH, 25_557_032 - 2_049_000 + 1_400_908),
        ("resnet101", Norm.BATCH, 43_901_068),
        ("resnet101", Norm.GROUP, 43_901_068),
        ("resnet101", Norm.GROUP_AMP, 43_901_068),
        ("resnet101", Norm.INSTANCE, 43_901_068),
        ("resnet101", Norm.FROZEN, 43_901_068 - 105_344),
    ],
)
def test_a_net_has_the_parameters_of_the_published_one_and_only_frozen_norms_train_none(
    backbone: str, norm: Norm, parameters: int
) -> None:
    net = without_data(f"deeplabv2-{backbone}", norm=norm)

    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("size", "logits_size"),
    [
        ((512, 1024), (65, 129)),
        ((1024, 2048), (129, 257)),
        ((321, 321), (41, 41)),
        ((769, 769), (97, 97)),
        ((32, 33), (5, 5)),
    ],
)
def test_logits_stay_at_an_eighth_rounded_up(
    size: tuple[int, int], logits_size: tuple[int, int]
) -> None:
    logits = without_data("deeplabv2-resnet101")(torch.empty((1, 3, *size), device="meta"))

    assert logits.shape == (1, 19, *logits_size)


def test_the_backbone_computes_what_torchvisions_does_once_that_is_rearranged() -> None:
    net = DeepLabV2(BLOCKS["resnet50"], classes=5, norm=nn.BatchNorm2d).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # zeros would hide the blocks
            nn.init.normal_(module.bias)
    reference = resnet50(replace_stride_with_dilation=[False, True, True]).double()
    first = reference.layer2[0]
    first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    for stage, dilation in ((reference.layer3, 2), (reference.layer4, 4)):
        for block in stage:
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    reference.maxpool.ceil_mode = True
    loaded = reference.load_state_dict(net.state_dict(), strict=False)
    reference.avgpool, reference.fc = nn.Identity(), nn.Identity()
    images = torch.randn((2, 3, 33, 47), dtype=torch.float64)

    with torch.no_grad():
        features = reference(images).unflatten(1, (2048, 5, 7))
        logits = net(images)

    assert loaded.missing_keys == ["fc.weight", "fc.bias"]
    torch.testing.assert_close(logits, net.layer5(features))


def test_the_classifier_sums_all_four_branches() -> None:
    aspp = ASPP(8, 3)
    features = torch.randn((2, 8, 30, 31))
    expected = sum(
        F.conv2d(features, branch.weight, branch.bias, padding=dilation, dilation=dilation)
        for branch, dilation in zip(convolutions(aspp), DILATIONS, strict=True)
    )

    torch.testing.assert_close(aspp(features), expected)


def convolutions(aspp: ASPP) -> Iterator[nn.Conv2d]:
    return (module for module in aspp.conv2d_list if isinstance(module, nn.Conv2d))


def test_classifier_weights_start_as_narrow_noise_and_biases_at_zero(fresh: DeepLabV2) -> None:
    for branch in convolutions(fresh.layer5):
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.01)
        assert branch.weight.mean().item() == pytest.approx(0.0, abs=1e-4)
        assert torch.equal(branch.bias, torch.zeros(19))  # type: ignore[arg-type] # has one


def test_backbone_weights_start_as_he_proposes(fresh: DeepLabV2) -> None:
    ratios = {
        name: module.weight.std().item() / math.sqrt(2 / (module.out_channels * size * size))
        for name, module in fresh.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith("layer5")
        for size in module.kernel_size[:1]
    }

    assert len(ratios) == 1 + 4 * 4
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.03)


@pytest.mark.parametrize("norm", [Norm.BATCH, Norm.GROUP, Norm.GROUP_AMP, Norm.INSTANCE])
def test_a_fresh_block_passes_its_shortcut_on_where_the_norm_is_learnt(norm: Norm) -> None:
    net = shallow(norm)
    scales = {
        name: set(parameter.tolist())
        for name, parameter in net.named_parameters()
        if name.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight"))
    }

    assert scales == {name: {0.0} if "bn3" in name else {1.0} for name in scales}
    assert len(scales) == 1 + 4 * 4


@pytest.mark.parametrize(
    ("norm", "entries"),
    [
        (Norm.BATCH, (*BATCH_NORM_ENTRIES, "num_batches_tracked")),
        (Norm.GROUP, ("weight", "bias")),
        (Norm.GROUP_AMP, ("weight", "bias")),
        (Norm.INSTANCE, ("weight", "bias")),
        (Norm.FROZEN, BATCH_NORM_ENTRIES),
    ],
)
def test_entries_carry_the_names_of_the_common_checkpoint(
    norm: Norm, entries: tuple[str, ...]
) -> None:
    convolutions_, norms = ["conv1"], ["bn1"]
    for stage, depth in enumerate((3, 4, 23, 3), start=1):
        for block in range(depth):
            convolutions_ += [f"layer{stage}.{block}.conv{i}" for i in (1, 2, 3)]
            norms += [f"layer{stage}.{block}.bn{i}" for i in (1, 2, 3)]
        convolutions_.append(f"layer{stage}.0.downsample.0")
        norms.append(f"layer{stage}.0.downsample.1")

    assert set(without_data("deeplabv2-resnet101", norm=norm).state_dict()) == {
        *(f"{name}.weight" for name in convolutions_),
        *(f"{name}.{entry}" for name in norms for entry in entries),
        *(f"layer5.conv2d_list.{i}.{entry}" for i in range(4) for entry in ("weight", "bias")),
    }


@pytest.mark.parametrize("norm", [Norm.BATCH, Norm.FROZEN])
def test_a_checkpoint_without_counts_of_batches_loads_completely(norm: Norm) -> None:
    checkpoint = {
        name: torch.rand_like(entry)
        for name, entry in shallow(seed=1).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    net = shallow(norm)

    net.load_state_dict(dict(checkpoint), strict=True)

    loaded = net.state_dict()
    assert all(torch.equal(loaded[name], entry) for name, entry in checkpoint.items())


def test_every_parameter_learns_once_the_last_norms_have_left_zero() -> None:
    net = shallow(Norm.GROUP)
    for name, parameter in net.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(parameter)

    net(torch.randn((1, 3, 65, 65))).square().mean().backward()

    silent = [
        name
        for name, parameter in net.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []
