"""Loading a file of weights into a network.

The file is a state dict of a torchvision ResNet or segmentation network, or a common
ImageNet-initialised DeepLab checkpoint, whose names can begin with `Scale.` or `module.`. Any
tensor without a counterpart is an error, except for those of a classifier.
"""

import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bsprobe.records.errors import FileError, UsageError
from bsprobe.storage.files import file_errors, require_regular_file
from bsprobe.training.cityscapes.normalisation import InputNormalisation
from bsprobe.training.models.deeplabv2 import DeepLabV2

LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)
"""Errors of `torch.load` for damaged files and files of other formats."""
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+\w)")
"""The name of a class or function in an error of `torch.load`."""
_PREFIXES = ("module.", "Scale.")
_WRAPPERS = ("state_dict", "model")
"""Keys of the weights in the checkpoints of training scripts."""
_IMAGENET_HEAD = ("fc.",)
_DEEPLAB_HEAD = ("layer5.",)
_TORCHVISION_HEADS = ("classifier.", "aux_classifier.")
_HEADS = _IMAGENET_HEAD + _DEEPLAB_HEAD + _TORCHVISION_HEADS
_BOOKKEEPING = "num_batches_tracked"
"""BatchNorm's count of batches: older files lack it, and outputs do not depend on it."""
_MOST_NAMED = 8
_INPUT_WORDS = {
    InputNormalisation.IMAGENET_RGB: "red, green, blue, ImageNet's mean and standard deviation",
    InputNormalisation.CAFFE_BGR: "blue, green, red from 0 to 255, less the mean colour",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """The result of loading a file of weights."""

    normalisation: InputNormalisation
    """The normalisation of images that the weights expect."""
    sentence: str
    """Sentences for the report: the tensors loaded and not loaded, and the normalisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """The match between the tensors of a file and of a network."""

    loaded: Mapping[str, torch.Tensor]
    left_out: tuple[str, ...]
    """Tensors of a classifier in the file that does not fit the network."""
    fresh: tuple[str, ...]
    """Tensors of the network's classifier that the file does not have."""
    unplaced: tuple[str, ...]
    """Other tensors of the file without a counterpart in the network."""
    missing: tuple[str, ...]
    """Other tensors of the network without a counterpart in the file."""


def load_weights(
    model: nn.Module, path: Path, *, stated: InputNormalisation | None
) -> LoadedWeights:
    """Load a file of weights into a network, in place.

    Args:
        model: The network; its classifier can have another number of classes than the file's.
        path: A state dict, or a dict that holds one under `state_dict` or `model`.
        stated: The normalisation given by the user; None to derive it from the tensor names.

    Raises:
        FileError: The file cannot be read, or does not fit the network outside the classifier.
        UsageError: The tensor names do not give the normalisation.
    """
    entries = _read(path)
    names = {_stripped(name): name for name in entries}
    if len(names) != len(entries):
        raise FileError(
            f"{path} holds two tensors with one name, prefixes aside",
            hint="give a file of one network",
        )
    normalisation = stated or _told_by(entries, path)
    match = _match(model, {new: entries[old] for new, old in names.items()})
    if match.unplaced or match.missing:
        raise _mismatch(path, match)
    # A copy, because frozen norms remove entries.
    model.load_state_dict(dict(match.loaded), strict=False)
    return LoadedWeights(
        normalisation=normalisation, sentence=_sentence(path, model, match, normalisation)
    )


def _read(path: Path) -> dict[str, torch.Tensor]:
    require_regular_file(path)
    with file_errors(path):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except LOAD_ERRORS as error:
            raise FileError(
                f"{path} cannot be loaded as weights: {_reason(error)}",
                hint="give a state dict saved with torch.save",
            ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    _require_tensors(path, content)
    return dict(content)


def _reason(error: Exception) -> str:
    """The reason in PyTorch's message, without its advice to load the file unsafely."""
    text = str(error).strip()
    if named := _FORBIDDEN.search(text):
        return f"it holds {named[1]}, which is not a tensor"
    if text.startswith("Weights only load failed"):
        return "it holds more than tensors"
    sentence = text.partition("\n")[0].partition(". ")[0]
    return sentence if " " in sentence else type(error).__name__


def _require_tensors(path: Path, content: Any) -> None:
    if not isinstance(content, Mapping) or not content:
        raise FileError(
            f"{path} holds no state dict", hint="give a state dict saved with torch.save"
        )
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise FileError(
                f"{path} holds a {type(value).__name__} under '{name}', not a tensor",
                hint="give a state dict, not a whole model or the checkpoint of a training",
            )


def _stripped(name: str) -> str:
    """A name without the prefixes of wrappers."""
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
    return name


def _told_by(names: Mapping[str, object], path: Path) -> InputNormalisation:
    """The normalisation of the images that weights were trained with, from the tensor names."""
    plain = [name.removeprefix("module.") for name in names]
    if any(name.startswith("Scale.") for name in plain):
        return InputNormalisation.CAFFE_BGR  # the wrapper of networks converted from Caffe
    if any(name.startswith((*_IMAGENET_HEAD, "backbone.")) for name in plain):
        return InputNormalisation.IMAGENET_RGB
    either = "; or ".join(_INPUT_WORDS.values())
    raise UsageError(
        f"the tensor names in {path} do not give the input normalisation: {either}",
        hint="add --input-normalisation imagenet-rgb (torchvision) or caffe-bgr (weights "
        "converted from Caffe, such as the common DeepLab checkpoints)",
    )


def _match(model: nn.Module, entries: Mapping[str, torch.Tensor]) -> _Match:
    own = model.state_dict()
    head = _DEEPLAB_HEAD if isinstance(model, DeepLabV2) else _TORCHVISION_HEADS
    if "backbone.conv1.weight" in own and not any(n.startswith("backbone.") for n in entries):
        entries = {n if n.startswith(_HEADS) else f"backbone.{n}": t for n, t in entries.items()}
    fits = {n for n, t in entries.items() if n in own and own[n].shape == t.shape}
    heads_own = {n for n in own if n.startswith(head)}
    if not heads_own <= fits:  # a classifier is loaded completely or not at all
        fits -= heads_own
    rest = [name for name in entries if name not in fits and not name.endswith(_BOOKKEEPING)]
    missing = [name for name in own if name not in fits and not name.endswith(_BOOKKEEPING)]
    return _Match(
        loaded={name: entries[name] for name in entries if name in fits},
        left_out=tuple(name for name in rest if name.startswith(_HEADS)),
        fresh=tuple(name for name in missing if name.startswith(head)),
        unplaced=tuple(
            _why(name, entries[name], own) for name in rest if not name.startswith(_HEADS)
        ),
        missing=tuple(name for name in missing if not name.startswith(head)),
    )


def _why(name: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> str:
    if name not in own:
        return name
    return f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"


def _mismatch(path: Path, match: _Match) -> FileError:
    parts = []
    if match.unplaced:
        parts.append(
            f"tensors of the file without a match: {len(match.unplaced)} "
            f"({_listed(match.unplaced)})"
        )
    if match.missing:
        parts.append(
            f"tensors of the network without a match: {len(match.missing)} "
            f"({_listed(match.missing)})"
        )
    statistics = any(name.endswith("running_mean") for name in match.unplaced)
    return FileError(
        f"{path} does not fit the network; {'; '.join(parts)}",
        hint="weights of BatchNorm need --norm batch or frozen"
        if statistics
        else "give a file of the same --model; only the classifier may differ",
    )


def _sentence(
    path: Path, model: nn.Module, match: _Match, normalisation: InputNormalisation
) -> str:
    total = len(match.loaded) + len(match.left_out)
    text = f"{len(match.loaded)} of the {total} tensors of {path.name} were loaded"
    if match.left_out:
        text += f". Not loaded, as of another classifier: {', '.join(match.left_out)}"
    if match.fresh:
        text += f". Newly initialised, as the classifier: {', '.join(match.fresh)}"
    text += f". Images are normalised as {normalisation} ({_INPUT_WORDS[normalisation]})."
    if isinstance(model, DeepLabV2) and any(n.startswith(_IMAGENET_HEAD) for n in match.left_out):
        text += (
            " torchvision's ResNets have the stride in the 3x3 convolution of a block, this "
            "network in the first 1x1, so the weights get other features from layer2 on."
        )
    return text


def _listed(names: Sequence[str]) -> str:
    """The first few names, and the number of others."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
