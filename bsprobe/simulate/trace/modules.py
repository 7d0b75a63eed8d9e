"""The module of a network that runs, in the forward or the backward pass."""

import bisect
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.graph import Node

from bsprobe.simulate.trace.compiled import path_as_written

_current_node: Callable[[], Node | None] = torch._C._current_autograd_node  # noqa: SLF001 - no public name
_sequence_number: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined] # noqa: SLF001 - as above


class ModuleTracker:
    """Tracks modules by hooks in the forward pass, and by numbers of nodes in the backward pass.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._owners = {
            id(parameter): path_as_written(name.rpartition(".")[0])
            for name, parameter in model.named_parameters()
        }
        self._stack: list[str] = []
        # The module that made the autograd nodes of each range of sequence numbers.
        self._numbers: list[int] = [0]
        self._modules: list[str] = [""]

    def __deepcopy__(self, _: object) -> "ModuleTracker":
        """Return the tracker itself: modules of a copied network count as the originals."""
        return self

    @contextmanager
    def watching(self, before_forward: Callable[[], None]) -> Iterator[None]:
        """Track the modules that run; can be entered again to continue.

        Args:
            before_forward: Called before each forward pass of the whole network.
        """
        hooks = []
        for name, module in self._model.named_modules():
            enter = functools.partial(self._enter, path_as_written(name), before_forward)
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def current(self) -> str:
        """Return the dotted path of the module that runs, in either pass; empty if none does."""
        if self._stack:
            return self._stack[-1]
        node = _current_node()
        if node is None:
            return ""
        if hasattr(node, "variable"):  # it accumulates the gradient of a parameter
            return self._owners.get(id(node.variable), "")
        return self._modules[bisect.bisect_right(self._numbers, node._sequence_nr()) - 1]  # noqa: SLF001 - no public name

    def _enter(self, name: str, before_forward: Callable[[], None], *_: object) -> None:
        if not name:
            before_forward()
        self._stack.append(name)
        self._note_place()

    def _leave(self, *_: object) -> None:
        self._stack.pop()
        self._note_place()

    def _note_place(self) -> None:
        self._numbers.append(_sequence_number())
        self._modules.append(self._stack[-1] if self._stack else "")
