"""Batches of your own: whatever your callable makes, moved and fed as the network takes it."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.training.models.callables import load_callable

_PAIR = 2
_LAST: Final = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Channels-last layouts, by the number of dimensions."""
_IMAGE_DIMENSIONS = 3
"""Of one image outside of a batch, as detection networks take them."""
LABELS: Final = frozenset(
    {
        *("label", "labels", "label_ids", "mask_labels", "class_labels", "target", "targets", "y"),
        *("mask", "masks", "semantic_mask", "seg", "segmentation", "annotation", "annotations"),
        *("gt", "ground_truth"),
    }
)
"""Names under which a batch that is one dict holds its labels."""
_FORMS: Final = (
    "return two things, inputs for the network and targets for the loss, or one dict with the "
    "labels inside"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBatch:
    """Inputs and targets: tensors, alone or in tuples, lists, dicts and objects.

    A dict of inputs is passed to the network by name, a tuple or list by place.
    """

    inputs: Any
    targets: Any

    def to(self, device: torch.device, layout: torch.memory_format) -> "OwnBatch":
        """The batch on a device, images and volumes in a memory layout."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            kept = layout_for(tensor, layout)
            return tensor.to(device, memory_format=kept, non_blocking=True)

        return self.mapped(moved)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "OwnBatch":
        """The batch with another tensor in the place of each; one that is there twice stays one."""
        made: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = function(tensor)
            return made[id(tensor)]

        return replace(self, inputs=_mapped(self.inputs, once), targets=_mapped(self.targets, once))

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """The outputs of a network for the inputs."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        return model(*self.inputs) if isinstance(self.inputs, tuple | list) else model(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBatch(OwnBatch):
    """One dict, dataclass or named tuple, labels among its fields; its targets are those.

    The network is given what its forward method has arguments for, by name: a network that takes
    the labels too, as those of transformers do, then returns its loss. One that knows none of the
    names is given the first tensor that is no label.
    """

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """The outputs of a network for the fields that it takes."""
        taken = arguments_of(model)
        known = {name: value for name, value in self.inputs.items() if name in taken}
        if known:
            return model(**known)
        return model(next(_tensors({k: v for k, v in self.inputs.items() if k not in LABELS})))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionBatch(OwnBatch):
    """A list of images of any size, and a list of targets: what torchvision's detectors take."""

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """The losses of a network, by name."""
        return model(self.inputs, self.targets)


def layout_for(tensor: torch.Tensor, layout: torch.memory_format) -> torch.memory_format:
    """The memory layout of one tensor: those of images and volumes follow the one that is asked."""
    if tensor.dim() not in _LAST:
        return torch.preserve_format
    return layout if layout is torch.contiguous_format else _LAST[tensor.dim()]


def arguments_of(model: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments of a network's forward method, of a replica's network too."""
    inner = getattr(model, "module", None)
    network = inner if isinstance(inner, nn.Module) else model
    forward = network.forward if isinstance(network, nn.Module) else network
    return frozenset(inspect.signature(forward).parameters)


def own_batch(name: str, size: int, *, seed: int) -> OwnBatch:
    """Have your callable make a batch, with PyTorch's random numbers seeded for it.

    Args:
        name: The callable, as `load_callable` takes it.
        size: What it is called with.
        seed: Equal seeds give equal batches, where they are made of PyTorch's random numbers.

    Raises:
        UsageError: It made something else, or a batch of another size.
    """
    make = load_callable("--batch-from", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make(size)
    batch = _read(made)
    if batch is None:
        raise UsageError(
            f"--batch-from {name}: it made a {type(made).__name__}, not inputs and targets",
            hint=_FORMS,
        )
    if isinstance(batch, DetectionBatch):
        _require_size(name, size, len(batch.inputs))
        return batch
    shapes = [tuple(tensor.shape) for tensor in _tensors(batch.inputs)]
    if not any(shape[:1] == (size,) for shape in shapes):
        raise UsageError(
            f"--batch-from {name}: asked for {size}, it made inputs of {shapes or 'no tensors'}",
            hint="it is called with a batch size, which is the first dimension of its tensors",
        )
    return batch


def _require_size(name: str, asked: int, made: int) -> None:
    if made != asked:
        raise UsageError(
            f"--batch-from {name}: asked for {asked}, it made a list of {made} images",
            hint="it is called with a batch size, the number of images in its list",
        )


def _read(made: Any) -> OwnBatch | None:
    """A batch of one of the known forms, None of any other."""
    if isinstance(made, tuple | list) and len(made) == _PAIR:
        inputs, targets = made
        kind = DetectionBatch if _is_detection(inputs, targets) else OwnBatch
        return kind(inputs=inputs, targets=targets)
    fields = _fields(made)
    if not fields:
        return None
    labels = {name: value for name, value in fields.items() if name in LABELS}
    targets = next(iter(labels.values())) if len(labels) == 1 else labels or None
    return NamedBatch(inputs=fields, targets=targets)


def _fields(made: Any) -> dict[str, Any]:
    """The fields of a dict, a dataclass, a named tuple, or an object with a `to` of its own."""
    if isinstance(made, Mapping):
        return dict(made)
    if isinstance(made, tuple) and hasattr(made, "_asdict"):
        return dict(made._asdict())
    return dict(_parts(made))


def _is_detection(inputs: Any, targets: Any) -> bool:
    are_images = isinstance(inputs, list) and all(
        isinstance(image, torch.Tensor) and image.dim() == _IMAGE_DIMENSIONS for image in inputs
    )
    return are_images and isinstance(targets, list) and all(isinstance(t, Mapping) for t in targets)


def _moves_itself(value: Any) -> bool:
    """True for objects that hold tensors and have a `to`: of other packages, or the user's own."""
    is_object = hasattr(value, "__dict__") and not isinstance(value, type)
    return is_object and callable(getattr(value, "to", None))


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A value with every tensor in it exchanged, however deep."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, function) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(_mapped(each, function) for each in value)
    if isinstance(value, tuple | list):
        return type(value)([_mapped(each, function) for each in value])
    changed = value
    for name, each in _parts(value):
        changed = copy.copy(value) if changed is value else changed
        object.__setattr__(changed, name, _mapped(each, function))  # of a frozen dataclass, too
    return changed


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a dataclass, or of an object with a `to` of its own; none of others."""
    if _is_dataclass(value):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
    elif _moves_itself(value):
        yield from vars(value).items()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    else:
        for _, each in _parts(value):
            yield from _tensors(each)
