"""Answers to programs that read values of tensors, or make sizes that depend on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.utils._mode_utils import no_dispatch

from bsprobe.simulate.cuda.effects import tensors_of
from bsprobe.simulate.trace.data_dependence import (
    Decisions,
    EndlessConditionError,
    Obstacle,
    TooManyConditionsError,
    UntraceableModelError,
)
from bsprobe.simulate.trace.fake_kernels import run_fake, storage_of
from bsprobe.simulate.trace.known_values import KnownValues
from bsprobe.simulate.trace.largest_sizes import LARGEST
from bsprobe.simulate.trace.source_lines import SourceLine, lines_of_caller, place_of_caller
from bsprobe.simulate.trace.unknown_numbers import UnknownNumber

_aten = torch.ops.aten
_COMPARISONS = (_aten.equal.default, _aten.allclose.default)
_UNBIND = _aten.unbind.int
_ROWS = ((), (0,))
"""Arguments of `unbind` for the rows of a selection; its number of columns is known."""
_COUNTED_IN = (_aten.bincount.default,)
"""Operators whose size an argument gives."""


class Values:
    """The values that a trace knows, decides or refuses.

    Args:
        decisions: The answers to conditions on values.
        module: Returns the dotted path of the module that runs.
    """

    def __init__(self, decisions: Decisions, module: Callable[[], str]) -> None:
        self.known = KnownValues()
        self._decisions = decisions
        self._module = module
        self._selected: set[int] = set()
        self._largest: tuple[str, str, tuple[SourceLine, ...]] | None = None

    @property
    def are_largest_sizes(self) -> bool:
        """True if a size depends on values, and the largest was taken."""
        return self._largest is not None

    def run(
        self, mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator on fake tensors, at the largest size if that depends on values.

        Args:
            mode: The mode of the fake tensors.
            operator: An overload, such as `aten.add.Tensor`.
            args: Its positional arguments.
            kwargs: Its named arguments.

        Returns:
            The outputs.

        Raises:
            UntraceableModelError: The operator needs values, makes a size without a bound, or has
                no fake kernel.
        """
        name = operator.name()
        if operator in _COMPARISONS:
            return self._compared(operator, args, kwargs)
        if operator is _UNBIND and args[1:] in _ROWS and storage_of(args[0]) in self._selected:
            raise self._refused(Obstacle.LOOP, name)
        try:
            try:
                return run_fake(mode, operator, args, kwargs)
            except DynamicOutputShapeException:
                if operator not in LARGEST:
                    raise
                found = LARGEST[operator](*args, **kwargs)
                if operator not in _COUNTED_IN:
                    self._note_largest(name)
                    self._selected |= {storage_of(each) for each in tensors_of(found)}
                return found
        except DynamicOutputShapeException as error:
            raise self._refused(Obstacle.SIZE, name) from error
        except DataDependentOutputException as error:
            raise self._refused(Obstacle.VALUES, name) from error
        except (UnsupportedOperatorException, NotImplementedError) as error:
            raise self._refused(Obstacle.NO_KERNEL, name) from error

    def read(self, tensor: torch.Tensor) -> float:
        """Return a value that a program reads: a known one, or the decision on a condition.

        Raises:
            UntraceableModelError: The value is neither known nor a condition.
        """
        name = "item"
        known = self.known.of(tensor)
        if known is not None:
            if self.known.is_bound(tensor):
                self._note_largest(name)
            with no_dispatch():
                value: float = known.item()
                return value
        if tensor.dtype is torch.bool:
            return self._decided(name)
        raise self._refused(Obstacle.VALUES, name)

    def _compared(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        known = self.known.of(args[0]), self.known.of(args[1])
        if known[0] is None or known[1] is None:
            return self._decided(operator.name())
        with no_dispatch():
            return bool(operator(*known, *args[2:], **kwargs))

    def forget(self, storage: int) -> None:
        """Forget a storage that has died."""
        self.known.forget(storage)
        self._selected.discard(storage)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Patch the methods of fake tensors that read values without calling an operator."""

        def numpy(tensor: torch.Tensor, **_: object) -> Any:
            return self.array(tensor)

        def item(tensor: torch.Tensor) -> float:
            return self.number(tensor)

        with mock.patch.multiple(
            FakeTensor, numpy=numpy, item=item, __format__=_formatted, __deepcopy__=_copied
        ):
            yield

    def number(self, tensor: torch.Tensor) -> float:
        """Return the result of `Tensor.item`; an unknown float can only be logged.

        Raises:
            UntraceableModelError: The value is unknown and not a float.
        """
        try:
            value: float = torch.Tensor.item(tensor)
        except UntraceableModelError:
            if not tensor.is_floating_point():
                raise
        else:
            return value

        def refuse() -> NoReturn:
            raise self._refused(Obstacle.VALUES, "item")

        return UnknownNumber(refuse)

    def array(self, tensor: torch.Tensor) -> Any:
        """Return the result of `Tensor.numpy`.

        Raises:
            UntraceableModelError: The values are unknown.
        """
        known = self.known.of(tensor)
        if known is None:
            raise self._refused(Obstacle.VALUES, "numpy")
        with no_dispatch():
            return known.clone().numpy()

    def explain(self, error: RuntimeError) -> None:
        """Replace an error of the program if a largest size may be the cause.

        Raises:
            UntraceableModelError: A size was taken at its largest.
        """
        if self._largest is not None:
            operator, module, lines = self._largest
            detail = str(error)
            raise UntraceableModelError(
                Obstacle.LARGEST_SIZE, operator, module, lines, detail
            ) from error

    def _decided(self, name: str) -> bool:
        try:
            return self._decisions.decide(place_of_caller())
        except TooManyConditionsError as error:
            raise self._refused(Obstacle.CONDITIONS, name) from error
        except EndlessConditionError as error:
            raise self._refused(Obstacle.REPEATED, name) from error

    def _note_largest(self, name: str) -> None:
        if self._largest is None:
            self._largest = name, self._module(), lines_of_caller()

    def _refused(self, obstacle: Obstacle, name: str) -> UntraceableModelError:
        return UntraceableModelError(obstacle, name, self._module(), lines_of_caller())


def _formatted(tensor: torch.Tensor, spec: str) -> str:
    """Format a placeholder: the number changes no memory."""
    if tensor.dim():
        return object.__format__(tensor, spec)
    return format(float("nan") if tensor.is_floating_point() else 0, spec)


def _copied(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """Copy a tensor deeply without its storage, which fake tensors do not have."""
    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = (
            nn.Parameter(copy, requires_grad=tensor.requires_grad)
            if is_parameter
            else copy.requires_grad_(tensor.requires_grad)
        )
    found: torch.Tensor = memo[id(tensor)]
    return found
