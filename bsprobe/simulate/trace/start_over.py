"""Equal starts of recordings: no network continues from the state of the last recording."""

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
"""Storages that replace others in a recording, by the identity of the replaced ones."""


@contextmanager
def starting_over(model: nn.Module) -> Iterator[Renewed]:
    """Seed Python's and NumPy's random numbers, and restore the network's attributes at the end.

    Each trial begins with a new network. The attributes of all modules are restored, and the
    contents of lists, dictionaries, sets and queues among them. Buffers are replaced by new ones
    meanwhile: nothing else refers to them, so one that the network replaces is freed.
    """
    saved = [(vars(module), dict(vars(module)), _contents(module)) for module in model.modules()]
    # Such programs use NumPy's legacy generator.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - as above
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
    """Replace buffers by new tensors, except those that share a storage."""
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
    """Return the containers of a module with copies of their contents.

    Those of submodules and parameters are left out. Hooks are included: transformers adds hooks in
    the first step, and sets an attribute that says so.
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
