"""Recordings that start alike: a network that counts does not go on from the one before."""

import copy
import random
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from bsprobe.simulate.trace.fake_kernels import storage_of

Renewed = Mapping[int, weakref.ref[torch.UntypedStorage]]
"""Storages that take the place of others for a recording, by the identity of those; not held."""


@contextmanager
def starting_over(model: nn.Module) -> Iterator[Renewed]:
    """Give a network back the attributes that it had, and seed Python's and NumPy's random numbers.

    A trial begins with a new network. Kept are numbers, tensors and what is in lists, dictionaries,
    sets and queues that are attributes of a module. Buffers are new ones meanwhile: nothing else
    holds them, so that one that is replaced dies.
    """
    saved = [(vars(module), dict(vars(module)), _contents(module)) for module in model.modules()]
    # NumPy's old generator is the one that such programs use.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - as said
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    try:
        yield _renewed_buffers(model)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for attributes, before, contents in saved:
            attributes.clear()
            attributes.update(before)
            for holder, content in contents:
                _refill(holder, content)


def _renewed_buffers(model: nn.Module) -> Renewed:
    """Put new tensors in the place of buffers, but for those that share their memory."""
    holders = [module._buffers for module in model.modules()]  # noqa: SLF001 - as `_apply` does
    buffers = [(held, name, each) for held in holders for name, each in held.items()]
    sharing = Counter(storage_of(each) for _, _, each in buffers if each is not None)
    renewed: dict[int, weakref.ref[torch.UntypedStorage]] = {}
    for held, name, each in buffers:
        if each is not None and sharing[storage_of(each)] == 1:
            new = torch.empty_strided(each.shape, each.stride(), dtype=each.dtype)
            if new.untyped_storage().nbytes() == each.untyped_storage().nbytes():
                held[name] = new
                renewed[storage_of(each)] = weakref.ref(new.untyped_storage())
    return renewed


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """The containers of a module and what is in them; PyTorch's own of modules and weights stay.

    Hooks do not: transformers adds its own in the first step, and an attribute says that it has.
    """
    return [
        (value, copy.copy(value))
        for name, value in vars(module).items()
        if isinstance(value, list | dict | set | deque)
        and (name == "_buffers" or "_hooks" in name or not name.startswith("_"))
    ]


def _refill(holder: Any, content: Any) -> None:
    holder.clear()
    if isinstance(holder, dict | set):
        holder.update(content)
    else:
        holder.extend(content)
