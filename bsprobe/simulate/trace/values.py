"""Answers to a program that asks for values, or for sizes that depend on them."""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.utils._mode_utils import no_dispatch

from bsprobe.simulate.trace.data_dependence import (
    Decisions,
    Obstacle,
    TooManyConditionsError,
    UntraceableModelError,
)
from bsprobe.simulate.trace.fake_kernels import run_fake
from bsprobe.simulate.trace.known_values import KnownValues
from bsprobe.simulate.trace.largest_sizes import LARGEST
from bsprobe.simulate.trace.source_lines import SourceLine, lines_of_caller

_EQUAL = torch.ops.aten.equal.default


class Values:
    """The values that a trace knows, decides about or refuses.

    Args:
        decisions: The answers to conditions that depend on values.
        module: Tells the dotted path of the module that runs now.
    """

    def __init__(self, decisions: Decisions, module: Callable[[], str]) -> None:
        self.known = KnownValues()
        self._decisions = decisions
        self._module = module
        self._largest: tuple[str, str, tuple[SourceLine, ...]] | None = None

    @property
    def are_largest_sizes(self) -> bool:
        """True where a size depends on values, and the largest was taken."""
        return self._largest is not None

    def run(
        self, mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operator on fake tensors, at the largest size where that depends on values.

        Raises:
            UntraceableModelError: It depends on values in a way that has no bound, or has no fake
                kernel.
        """
        name = operator.name()
        if operator is _EQUAL:
            return self._are_equal(*args)
        try:
            try:
                return run_fake(mode, operator, args, kwargs)
            except DynamicOutputShapeException:
                if operator not in LARGEST:
                    raise
                self._note_largest(name)
                return LARGEST[operator](*args, **kwargs)
        except DynamicOutputShapeException as error:
            raise self._refused(Obstacle.SIZE, name) from error
        except DataDependentOutputException as error:
            raise self._refused(Obstacle.VALUES, name) from error
        except (UnsupportedOperatorException, NotImplementedError) as error:
            raise self._refused(Obstacle.NO_KERNEL, name) from error

    def read(self, tensor: torch.Tensor) -> float:
        """Read a value that a program asks for: a known one, or a branch to take.

        Raises:
            UntraceableModelError: It is neither.
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

    def _are_equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        if one.shape != other.shape:
            return False
        first, second = self.known.of(one), self.known.of(other)
        if first is None or second is None:
            return self._decided("equal")
        with no_dispatch():
            return torch.equal(first, second)

    def array(self, tensor: torch.Tensor) -> Any:
        """Answer `Tensor.numpy`.

        Raises:
            UntraceableModelError: The values are not known.
        """
        known = self.known.of(tensor)
        if known is None:
            raise self._refused(Obstacle.VALUES, "numpy")
        with no_dispatch():
            return known.clone().numpy()

    def failed(self, error: RuntimeError) -> Exception:
        """The error of a program: another one where a largest size may be the cause."""
        if self._largest is None:
            return error
        operator, module, lines = self._largest
        return UntraceableModelError(Obstacle.LARGEST_SIZE, operator, module, lines, str(error))

    def _decided(self, name: str) -> bool:
        try:
            return self._decisions.decide(lines_of_caller())
        except TooManyConditionsError as error:
            raise self._refused(Obstacle.VALUES, name) from error

    def _note_largest(self, name: str) -> None:
        if self._largest is None:
            self._largest = name, self._module(), lines_of_caller()

    def _refused(self, obstacle: Obstacle, name: str) -> UntraceableModelError:
        return UntraceableModelError(obstacle, name, self._module(), lines_of_caller())
