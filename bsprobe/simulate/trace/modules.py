"""The module of a network that runs, in the forward or the backward pass, and its loss."""

import bisect
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.autograd.graph import Node

from bsprobe.records.explanations import LOSS, NETWORK
from bsprobe.simulate.timeline import Action, Event, Phase, RecordedScratch, RecordedStorage
from bsprobe.simulate.trace.compiled import path_as_written
from bsprobe.training.outputs import returns_loss

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
            id(parameter): path_as_written(name.rpartition(".")[0]) or NETWORK
            for name, parameter in model.named_parameters()
        }
        self._stack: list[str] = []
        # The module that made the autograd nodes of each range of sequence numbers.
        self._numbers: list[int] = [0]
        self._modules: list[str] = [""]
        self._has_own_loss = False

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
        """Return the dotted path of the module that runs, in either pass; empty if none does.

        The network itself, outside its parts, is `NETWORK`.
        """
        if self._stack:
            return self._stack[-1]
        node = _current_node()
        if node is None:
            return ""
        if hasattr(node, "variable"):  # it accumulates the gradient of a parameter
            return self._owners.get(id(node.variable), "")
        return self._modules[bisect.bisect_right(self._numbers, node._sequence_nr()) - 1]  # noqa: SLF001 - no public name

    def part_in(self, phase: Phase) -> str:
        """Return the module that runs; in the passes, all that is outside the network is `LOSS`."""
        module = self.current()
        return LOSS if not module and phase in (Phase.FORWARD, Phase.BACKWARD) else module

    def name_own_loss(
        self,
        events: Sequence[Event],
        storages: list[RecordedStorage],
        scratches: list[RecordedScratch],
    ) -> None:
        """Attribute what a network runs after its last part to the loss, if it returns a loss.

        Args:
            events: The events of the step, up to the end of the forward pass.
            storages: All storages; those of the loss are replaced.
            scratches: All scratches; those of the loss are replaced.
        """
        after = (NETWORK, LOSS)
        for action, index in reversed(events if self._has_own_loss else ()):
            if action is Action.ALLOCATE:
                place, kind, size = storages[index]
                if place.module not in after:
                    return
                storages[index] = (replace(place, module=LOSS), kind, size)
            elif action is Action.SCRATCH:
                scratch = scratches[index]
                if scratch.place.module not in after:
                    return
                scratches[index] = replace(scratch, place=replace(scratch.place, module=LOSS))

    def _enter(self, name: str, before_forward: Callable[[], None], *_: object) -> None:
        if not name:
            before_forward()
            self._has_own_loss = False
        self._stack.append(name or NETWORK)
        self._note_place()

    def _leave(self, _module: nn.Module, _inputs: object, outputs: object) -> None:
        # The last place is the network itself; the one before it is a part, if one has run.
        has_run_parts = len(self._modules) > 1 and self._modules[-2] != ""
        if self._stack.pop() == NETWORK and has_run_parts and returns_loss(outputs):
            self._has_own_loss = True
            self._modules[-1] = ""
        self._note_place()

    def _note_place(self) -> None:
        self._numbers.append(_sequence_number())
        self._modules.append(self._stack[-1] if self._stack else "")
