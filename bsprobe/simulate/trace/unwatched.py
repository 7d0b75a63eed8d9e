"""Operators that PyTorch calls without a dispatch mode.

Under a mode, and on tensors of a subclass, autograd never writes in place
(`at::isTensorSubclassLike` in ATen/TensorSubclassLikeUtils.h). Real training does.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bsprobe.simulate.cuda import FORMULAS, WRITES_INTO, ZEROS, is_dense
from bsprobe.simulate.cuda.effects import tensors_of
from bsprobe.simulate.trace.fake_kernels import storage_of
from bsprobe.simulate.versions import Change, Version, has

_ADD = torch.ops.aten.add.Tensor
_ADD_IN_PLACE = torch.ops.aten.add_.Tensor
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001 - no public name, here and below
_node: Callable[[], Any] = torch._C._current_autograd_node  # noqa: SLF001

References = tuple[int, int, int]
"""References to a tensor in C++ and in Python, and to its storage."""


class Unwatched:
    """Chooses the operator that a program calls without a dispatch mode.

    Args:
        version: The PyTorch version to simulate.
    """

    def __init__(self, version: Version) -> None:
        self._adds_in_place = has(version, Change.GRADIENTS_ADDED_IN_PLACE)
        self._held_by_autograd = _references_of_accumulation()
        self._zeros: frozenset[int] = frozenset()
        self._node = -1
        self._made_in_node: dict[int, str] = {}

    def instead_of(self, operator: Any, args: tuple[Any, ...]) -> Any:
        """Return the operator that is called without a mode instead of a given one.

        Args:
            operator: The operator that the mode sees.
            args: Its arguments; no other Python references to the tensors may exist.
        """
        if not _runs_node():
            return operator
        if operator is _ADD and self._accumulates(args):
            return _ADD_IN_PLACE
        if operator in WRITES_INTO and storage_of(args[0]) in self._zeros:
            return WRITES_INTO[operator]
        return self._in_formula(operator, args)

    def note(self, operator: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note the tensors that an operator of a backward pass has made.

        Args:
            operator: The operator that has run.
            args: Its positional arguments.
            out: Its output.
        """
        if not _runs_node():
            return
        name = operator.overloadpacket.__name__
        given = {storage_of(each) for each in args if isinstance(each, torch.Tensor)}
        returned = {storage_of(each) for each in tensors_of(out)}
        made = returned - given
        if made:
            self._zeros = frozenset(made) if name in ZEROS else frozenset()
            self._enter_node()
        if not operator.is_view:
            written = returned & self._made_in_node.keys()
            self._made_in_node.update(dict.fromkeys(made | written, name.removesuffix("_")))

    def _enter_node(self) -> None:
        node = _number(_node())
        if node != self._node:
            self._node = node
            self._made_in_node.clear()

    def _in_formula(self, operator: Any, args: tuple[Any, ...]) -> Any:
        """Return the operator in a node's formula: in place if the node made the operand."""
        node = _node()
        formula = FORMULAS.get(type(node).__name__, {})
        if operator not in formula or _number(node) != self._node or torch.is_grad_enabled():
            return operator
        instead, makers = formula[operator]
        return instead if self._made_in_node.get(storage_of(args[0])) in makers else operator

    def _accumulates(self, args: tuple[Any, ...]) -> bool:
        """Return whether autograd adds a gradient to one that only autograd refers to.

        An addition within a node's formula does not count, as its operands are not gradients of
        another node yet. Source: `can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp.
        """
        return (
            self._adds_in_place
            and not torch.is_grad_enabled()
            and isinstance(args[1], torch.Tensor)
            and _references(args) == self._held_by_autograd
            and is_dense(args[0])
            and not self._is_of_formula(args)
        )

    def _is_of_formula(self, args: tuple[Any, ...]) -> bool:
        node = _node()
        if _number(node) != self._node or storage_of(args[0]) not in self._made_in_node:
            return False
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        return len(set(edges)) == len(edges)


def _runs_node() -> bool:
    """Return whether a backward node runs; False in callbacks at the end, such as DDP's."""
    return _graph_task() != -1 and _node() is not None


def _number(node: Any) -> int:
    number: int = node._sequence_nr()  # noqa: SLF001 - no public name
    return number


def _references(args: tuple[Any, ...]) -> References:
    return (
        args[0]._use_count(),  # noqa: SLF001 - no public names, here and below
        sys.getrefcount(args[0]),
        torch._C._storage_Use_Count(args[0].untyped_storage()._cdata),  # noqa: SLF001
    )


class _Accumulation(TorchDispatchMode):
    """Notes the references to a gradient when autograd adds another to it."""

    seen: References

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: tuple[type, ...], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _ADD:
            self.seen = _references(args)
        return func(*args, **(kwargs or {}))


@functools.cache
def _references_of_accumulation() -> References:
    """Return the reference counts of a gradient that only autograd refers to.

    Passing a tensor to Python adds references, whose number depends on the version of PyTorch.
    """
    mode = _Accumulation()  # type: ignore[no-untyped-call] # PyTorch's
    with torch.enable_grad(), mode:
        x = torch.zeros(1, requires_grad=True)
        torch.autograd.grad(torch.stack((x.sin(), x.cos())).sum(), x)
    return mode.seen
