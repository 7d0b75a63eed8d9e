"""User-supplied batches: made by a callable, moved to the device, passed to the network."""

import copy
import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from bsprobe.records.batch_forms import BatchForm, Call, TargetsAre
from bsprobe.records.errors import UsageError
from bsprobe.training.models.callables import load_callable

_PAIR = 2
_LAST: Final = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Channels-last layouts, by the number of dimensions."""
_IMAGE_DIMENSIONS = 3
"""Dimensions of one image without a batch dimension, as detection networks take it."""
_PIXEL_DIMENSIONS = 3
"""The fewest dimensions of a batch of labels of pixels."""
LABELS: Final = frozenset(
    {
        *("label", "labels", "label_ids", "mask_labels", "class_labels", "target", "targets", "y"),
        *("mask", "masks", "semantic_mask", "seg", "segmentation", "annotation", "annotations"),
        *("gt", "ground_truth"),
    }
)
"""Names of labels in a batch that is one dict."""
_FORMS: Final = (
    "return a pair of inputs for the network and targets for the loss, or one dict that includes "
    "the labels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBatch:
    """Inputs and targets: tensors, alone or in tuples, lists, dicts and objects.

    A dict of inputs is passed to the network as keyword arguments, a tuple or list as positional
    ones.
    """

    inputs: Any
    targets: Any

    def to(self, device: torch.device, layout: torch.memory_format) -> "OwnBatch":
        """Return the batch on a device, images and volumes in a memory layout."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            kept = layout_for(tensor, layout)
            return tensor.to(device, memory_format=kept, non_blocking=True)

        return self.mapped(moved)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "OwnBatch":
        """Return the batch with a function applied to every tensor, once to a shared one."""
        made: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = function(tensor)
            return made[id(tensor)]

        return replace(self, inputs=_mapped(self.inputs, once), targets=_mapped(self.targets, once))

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """Run a network on the inputs."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        return model(*self.inputs) if isinstance(self.inputs, tuple | list) else model(self.inputs)

    def form_for(self, model: Callable[..., Any]) -> BatchForm | None:  # noqa: ARG002 - others ask it
        """Return the form of the batch for a network; None if it has no simple form."""
        call, several = Call.ONE, {}
        if isinstance(self.inputs, Mapping):
            call, several = Call.NAMED, dict(self.inputs)
        elif isinstance(self.inputs, tuple | list):
            call = Call.POSITIONAL
            several = {str(number): each for number, each in enumerate(self.inputs)}
        return BatchForm(call=call, targets=_kind_of(self.targets), sized=_sized(several))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBatch(OwnBatch):
    """One dict, dataclass or named tuple whose fields include the labels, which are the targets.

    The fields that the forward method of the network has arguments for are passed by name. A
    network that takes the labels too, as those of transformers do, returns its loss. If the forward
    method takes none of the names, the first tensor that is not a label is passed.
    """

    has_attributes: bool = False
    """True if the fields are attributes, not entries of a dict."""

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """Run a network on the fields that it takes."""
        if known := self._taken_by(model):
            return model(**known)
        return model(next(_tensors(self._without_labels)))

    def form_for(self, model: Callable[..., Any]) -> BatchForm | None:
        """Return the form of the batch for a network; None if its images lie deeper."""
        fields, call = tuple(self._taken_by(model)), Call.FIELDS
        if not fields:
            first = next(_tensors(self._without_labels))
            fields = tuple(k for k, v in self._without_labels.items() if v is first)[:1]
            call = Call.FIELD
        return (
            BatchForm(
                call=call,
                targets=_kind_of(self.targets),
                fields=fields,
                labels=tuple(name for name in self.inputs if name in LABELS),
                sized=_sized({name: self.inputs[name] for name in fields}),
                has_attributes=self.has_attributes,
            )
            if fields
            else None
        )

    def _taken_by(self, model: Callable[..., Any]) -> dict[str, Any]:
        """The fields that the forward method of a network has arguments for."""
        taken = arguments_of(model)
        return {name: value for name, value in self.inputs.items() if name in taken}

    @property
    def _without_labels(self) -> dict[str, Any]:
        return {name: value for name, value in self.inputs.items() if name not in LABELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionBatch(OwnBatch):
    """A list of images of any size and a list of targets, as torchvision's detectors take them."""

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """Run a network on images and targets; it returns its losses by name."""
        return model(self.inputs, self.targets)

    def form_for(self, model: Callable[..., Any]) -> BatchForm:  # noqa: ARG002 - as above
        """Return the form of the batch."""
        return BatchForm(call=Call.DETECTOR, targets=TargetsAre.IMAGES)


def layout_for(tensor: torch.Tensor, layout: torch.memory_format) -> torch.memory_format:
    """The memory layout of one tensor: the given one for images and volumes, else its own."""
    if tensor.dim() not in _LAST:
        return torch.preserve_format
    return layout if layout is torch.contiguous_format else _LAST[tensor.dim()]


def arguments_of(model: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments of a network's forward method, also inside a replica."""
    inner = getattr(model, "module", None)
    network = inner if isinstance(inner, nn.Module) else model
    forward = network.forward if isinstance(network, nn.Module) else network
    return frozenset(inspect.signature(forward).parameters)


def own_batch(name: str, size: int, *, seed: int) -> OwnBatch:
    """Make a batch with a user's callable, with the random numbers of three libraries seeded.

    Args:
        name: The callable, as `load_callable` takes it.
        size: The batch size that it is called with.
        seed: Equal seeds give equal batches if the callable uses the global random numbers of
            PyTorch, Python or NumPy.

    Raises:
        UsageError: The callable returns something else, or a batch of another size.
    """
    make = load_callable("--batch-from", name)
    with _seeded(seed):
        made = make(size)
    batch = _read(made)
    if batch is None:
        raise UsageError(
            f"--batch-from {name}: it returned a {type(made).__name__}, not inputs and targets",
            hint=_FORMS,
        )
    if isinstance(batch, DetectionBatch):
        _require_size(name, size, len(batch.inputs))
        return batch
    shapes = [tuple(tensor.shape) for tensor in _tensors(batch.inputs)]
    if not any(shape[:1] == (size,) for shape in shapes):
        found = f"of shape {', '.join(map(str, shapes))}" if shapes else "without tensors"
        raise UsageError(
            f"--batch-from {name}: called with {size}, it returned inputs {found}",
            hint="it is called with the batch size, the first dimension of the tensors to return",
        )
    return batch


def _kind_of(targets: Any) -> TargetsAre:
    """The kind of the targets; a list of several tensors need not have one for each image."""
    if not isinstance(targets, torch.Tensor):
        are_of_images = isinstance(targets, list) and all(isinstance(t, Mapping) for t in targets)
        return TargetsAre.IMAGES if are_of_images else TargetsAre.OTHER
    if targets.is_floating_point() or targets.dtype is torch.bool:
        return TargetsAre.VALUES
    return TargetsAre.PIXELS if targets.dim() >= _PIXEL_DIMENSIONS else TargetsAre.CLASSES


def _sized(inputs: Mapping[str, Any]) -> str | None:
    """The name of the tensor with most dimensions, which has one entry for each image."""
    tensors = {name: each for name, each in inputs.items() if isinstance(each, torch.Tensor)}
    return max(tensors, key=lambda name: tensors[name].dim(), default=None)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random numbers of PyTorch, Python and NumPy, and restore them at the end."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - such callables use it
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - as above
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above


def shapes_of(batch: OwnBatch) -> tuple[tuple[int, ...], ...]:
    """The shapes of all tensors of a batch."""
    return tuple(tuple(tensor.shape) for tensor in _tensors((batch.inputs, batch.targets)))


def elements_of(batch: OwnBatch) -> tuple[int, int]:
    """The numbers of elements of the inputs and of the targets."""
    inputs, targets = (
        sum(tensor.numel() for tensor in _tensors(part)) for part in (batch.inputs, batch.targets)
    )
    return inputs, targets


def size_words(batch: OwnBatch, size: int) -> str:
    """The sides of the largest tensor among the inputs, without images and channels: `512x1024`.

    Args:
        batch: The batch.
        size: The number of its images.
    """
    shape = tuple(max(_tensors(batch.inputs), key=torch.Tensor.numel).shape)
    is_stacked = not isinstance(batch, DetectionBatch) and shape[:1] == (size,)
    sides = shape[1:] if is_stacked else shape
    return "x".join(map(str, sides[1:] if len(sides) > _PAIR else sides)) or "1"


def _require_size(name: str, asked: int, made: int) -> None:
    if made != asked:
        raise UsageError(
            f"--batch-from {name}: called with {asked}, it returned a list of {made} images",
            hint="it is called with the batch size, the number of images in the list to return",
        )


def _read(made: Any) -> OwnBatch | None:
    """The batch of one of the known forms; None for any other."""
    if isinstance(made, tuple | list) and len(made) == _PAIR:
        inputs, targets = made
        kind = DetectionBatch if _is_detection(inputs, targets) else OwnBatch
        return kind(inputs=inputs, targets=targets)
    fields = _fields(made)
    if not fields:
        return None
    labels = {name: value for name, value in fields.items() if name in LABELS}
    targets = next(iter(labels.values())) if len(labels) == 1 else labels or None
    return NamedBatch(inputs=fields, targets=targets, has_attributes=not isinstance(made, Mapping))


def _fields(made: Any) -> dict[str, Any]:
    """The fields of a dict, a dataclass, a named tuple, or an object with a `to` method."""
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
    """True if an object has attributes and a `to` method."""
    is_object = hasattr(value, "__dict__") and not isinstance(value, type)
    return is_object and callable(getattr(value, "to", None))


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of a value with a function applied to every tensor in it, at any depth."""
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
        object.__setattr__(changed, name, _mapped(each, function))  # also in a frozen dataclass
    return changed


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a dataclass or of an object with a `to` method; empty for others."""
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
