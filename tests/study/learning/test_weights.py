"""Loading files of weights into networks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Norm, Variant
from bsprobe.study.learning.weights import load_weights
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.models.factory import build_model

RGB, BGR = InputNormalisation.IMAGENET_RGB, InputNormalisation.CAFFE_BGR
Entries = Mapping[str, torch.Tensor]


def network(
    name: str = "deeplabv2-mini", *, classes: int = 19, norm: Norm = Norm.BATCH
) -> nn.Module:
    return build_model(
        Variant(model=name, resolution=Resolution(height=64, width=64), classes=classes, norm=norm)
    )


def entries(model: nn.Module, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """A state dict whose tensors differ from those of any new network."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else value.clone()
        for name, value in model.state_dict().items()
    }


def saved(folder: Path, content: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def renamed(given: Entries, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {rename(name): value for name, value in given.items()}


def differing(model: nn.Module, given: Entries) -> list[str]:
    """The names of the entries of a network that differ from the given ones."""
    own = model.state_dict()
    return [n for n in own if n not in given or not torch.equal(own[n], given[n])]


def test_a_torchvision_resnet_fills_all_but_the_classifier(tmp_path: Path) -> None:
    given = entries(resnet50())
    model = network("deeplabv2-resnet50")
    before = {n: v.clone() for n, v in model.state_dict().items()}

    loaded = load_weights(model, saved(tmp_path, given), stated=None)

    left = differing(model, given)
    assert [name for name in left if not name.startswith("layer5.")] == []
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in left)
    assert loaded.normalisation is RGB
    assert loaded.sentence.startswith("318 of the 320 tensors of weights.pth were loaded. ")
    assert ": fc.weight, fc.bias. " in loaded.sentence
    assert ": layer5.conv2d_list.0." in loaded.sentence
    assert "imagenet-rgb (red, green, blue," in loaded.sentence
    assert "stride in the 3x3 convolution" in loaded.sentence


@pytest.mark.parametrize("prefix", ["Scale.", "module.Scale.", "Scale.module."])
def test_a_caffe_checkpoint_with_another_classifier_is_loaded_without_it(
    tmp_path: Path, prefix: str
) -> None:
    given = entries(network(classes=21))
    model = network()

    loaded = load_weights(
        model, saved(tmp_path, renamed(given, lambda name: prefix + name)), stated=None
    )

    assert {name.split(".")[0] for name in differing(model, given)} == {"layer5"}
    assert loaded.normalisation is BGR
    assert loaded.sentence.count("layer5.conv2d_list.3.bias. ") == 2
    assert "caffe-bgr (blue, green, red from 0 to 255," in loaded.sentence


def test_a_plain_deeplab_checkpoint_needs_the_option_for_its_input(tmp_path: Path) -> None:
    path = saved(tmp_path, entries(network()))

    with pytest.raises(UsageError, match=str(path)) as refused:
        load_weights(network(), path, stated=None)

    assert "--input-normalisation imagenet-rgb" in str(refused.value.hint)
    assert "caffe-bgr" in str(refused.value.hint)
    assert load_weights(network(), path, stated=BGR).normalisation is BGR


def test_a_stated_normalisation_overrides_the_one_from_the_names(tmp_path: Path) -> None:
    path = saved(tmp_path, renamed(entries(network()), lambda name: f"Scale.{name}"))

    assert load_weights(network(), path, stated=RGB).normalisation is RGB


@pytest.mark.parametrize(
    ("norm", "counts", "tensors"),
    [(Norm.BATCH, True, 110), (Norm.BATCH, False, 93), (Norm.FROZEN, True, 93)],
)
def test_a_file_of_the_same_network_fills_it_with_or_without_the_counts_of_older_ones(
    tmp_path: Path, norm: Norm, tensors: int, *, counts: bool
) -> None:
    whole = entries(network())
    given = {n: v for n, v in whole.items() if counts or not n.endswith("num_batches_tracked")}
    model = network(norm=norm)

    loaded = load_weights(model, saved(tmp_path, {"state_dict": given}), stated=RGB)

    assert [name for name in differing(model, given) if name in given] == []
    assert loaded.sentence.startswith(f"{tensors} of the {tensors} tensors")


def test_torchvisions_segmentation_networks_take_a_resnet_as_their_backbone(
    tmp_path: Path,
) -> None:
    given = entries(resnet50())
    model = network("torchvision:fcn_resnet50")

    loaded = load_weights(model, saved(tmp_path, given), stated=None)

    left = differing(model, renamed(given, lambda name: f"backbone.{name}"))
    assert {name.split(".")[0] for name in left} == {"classifier", "aux_classifier"}
    assert loaded.normalisation is RGB
    assert "stride" not in loaded.sentence


BROKEN: dict[str, tuple[Callable[[], object], Norm, str]] = {
    "a tensor too few": (
        lambda: {n: v for n, v in entries(network()).items() if n != "layer3.0.conv2.weight"},
        Norm.BATCH,
        "of the network without a match: 1 (layer3.0.conv2.weight)",
    ),
    "a tensor too many": (
        lambda: entries(network()) | {"layer3.7.conv1.weight": torch.zeros(2)},
        Norm.BATCH,
        "of the file without a match: 1 (layer3.7.conv1.weight)",
    ),
    "a tensor of another shape": (
        lambda: entries(network()) | {"conv1.weight": torch.zeros(8, 3, 7, 7)},
        Norm.BATCH,
        "of the file without a match: 1 (conv1.weight (8, 3, 7, 7) for (16, 3, 7, 7)); ",
    ),
    "statistics for a norm that has none": (
        lambda: entries(network()),
        Norm.GROUP,
        (
            "of the file without a match: 34 (bn1.running_mean, bn1.running_var, "
            "layer1.0.bn1.running_mean, layer1.0.bn1.running_var, layer1.0.bn2.running_mean, "
            "layer1.0.bn2.running_var, layer1.0.bn3.running_mean, layer1.0.bn3.running_var "
            "and 26 more)"
        ),
    ),
    "another network": (lambda: entries(resnet18()), Norm.BATCH, "of the network without a match"),
    "unknown prefixes": (
        lambda: renamed(entries(network()), lambda name: f"encoder.{name}"),
        Norm.BATCH,
        "of the network without a match",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_anything_unmatched_beyond_the_classifier_is_an_error_that_names_it(
    tmp_path: Path, case: str
) -> None:
    content, norm, words = BROKEN[case]
    path = saved(tmp_path, content())
    model = network(norm=norm)
    before = {n: v.clone() for n, v in model.state_dict().items()}

    with pytest.raises(FileError) as refused:
        load_weights(model, path, stated=RGB)

    assert str(path) in str(refused.value)
    assert words in str(refused.value)
    assert refused.value.hint is not None
    assert differing(model, before) == []


class Payload:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path, ("harm",))


UNSAFE = "cannot be loaded as weights"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Payload(), UNSAFE),
        ({"epoch": 3}, "holds a int under 'epoch', not a tensor"),
        ({}, "holds no state dict"),
        ([torch.zeros(2)], "holds no state dict"),
        (b"", UNSAFE),
        (b"PK\x03\x04", UNSAFE),
        (b"\x80\x02}", UNSAFE),
        (b"text", UNSAFE),
    ],
    ids=["code", "a number", "nothing", "a list", "empty", "zip", "pickle", "text"],
)
def test_a_file_without_a_state_dict_is_refused(
    tmp_path: Path, content: object, words: str
) -> None:
    path = saved(tmp_path, content)
    if isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(FileError, match=words) as refused:
        load_weights(network(), path, stated=RGB)
    # PyTorch's message advises to switch its safeguard off.
    assert "weights_only" not in str(refused.value)
    assert "trust" not in str(refused.value)


def test_a_class_in_the_file_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, torch.nn.Linear(1, 1))
    with pytest.raises(FileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_weights(network(), path, stated=RGB)


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.pth does not exist"):
        load_weights(network(), tmp_path / "absent.pth", stated=RGB)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    given = entries(network())
    path = saved(tmp_path, given | renamed(given, lambda name: f"module.{name}"))

    with pytest.raises(FileError, match="two tensors"):
        load_weights(network(), path, stated=RGB)
