"""Batches of your own: whatever your callable makes, moved and fed as the network takes it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bsprobe.records.errors import UsageError
from bsprobe.training.models.callables import load_callable

_WITH_LAYOUT = 4
"""Dimensions of the tensors that a memory layout rearranges."""
_PAIR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBatch:
    """What your callable returned: tensors, alone or in tuples, lists and dicts.

    A dict of inputs is passed to the network by name, a tuple or list by place.
    """

    inputs: Any
    targets: Any

    def to(self, device: torch.device, layout: torch.memory_format) -> "OwnBatch":
        """The batch on a device, tensors of four dimensions in a memory layout."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            kept = layout if tensor.dim() == _WITH_LAYOUT else torch.preserve_format
            return tensor.to(device, memory_format=kept, non_blocking=True)

        return self.mapped(moved)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "OwnBatch":
        """The batch with another tensor in the place of each; one that is there twice stays one."""
        made: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = function(tensor)
            return made[id(tensor)]

        return OwnBatch(inputs=_mapped(self.inputs, once), targets=_mapped(self.targets, once))

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """What a network makes of the inputs."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        return model(*self.inputs) if isinstance(self.inputs, tuple | list) else model(self.inputs)


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
    if not isinstance(made, tuple | list) or len(made) != _PAIR:
        raise UsageError(
            f"--batch-from {name}: it made a {type(made).__name__}, not inputs and targets",
            hint="return two things: inputs for the network, targets for the loss",
        )
    batch = OwnBatch(inputs=made[0], targets=made[1])
    shapes = [tuple(tensor.shape) for tensor in _tensors(batch.inputs)]
    if not any(shape[:1] == (size,) for shape in shapes):
        raise UsageError(
            f"--batch-from {name}: asked for {size}, it made inputs of {shapes or 'no tensors'}",
            hint="it is called with a batch size, which is the first dimension of its tensors",
        )
    return batch


def _mapped(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A value with every tensor in it exchanged, however deep."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, function) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([_mapped(each, function) for each in value])
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
