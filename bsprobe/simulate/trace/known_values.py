"""Values that are known without data: constants, counts of steps, buffers."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

from bsprobe.simulate.trace.fake_kernels import storage_of

_aten = torch.ops.aten
_MOST_ELEMENTS = 4096
"""Larger tensors, such as maps and coordinates, are not computed: programs read small ones."""
_FACTORIES = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})
"""Operators that make values from numbers alone."""
_FILLED = {"zeros_like": 0, "new_zeros": 0, "ones_like": 1, "new_ones": 1}
"""Operators that use only the metadata of a tensor, and the value that they fill in."""
_FILLED_WITH = {"full_like": 1, "new_full": 2}
"""Operators that fill in an argument, and the position of that argument."""
_COUNTS = frozenset({"count_nonzero", "sum"})
"""Operators that count the true elements of a mask; the bound is the number of elements."""
_RISING = frozenset({"_to_copy", "add", "ceil", "clamp", "clamp_max", "clamp_min", "floor"})
_RISING |= {"div", "maximum", "minimum", "mul", "round", "sum", "trunc"}
"""Operators that are monotonic in arguments that are not negative."""


class KnownValues:
    """Values of tensors that follow from constants, updated by every operator.

    They are held by storage, so that views and writes in place share them.
    """

    def __init__(self) -> None:
        self._values: dict[int, torch.Tensor] = {}
        self._bounds: set[int] = set()

    def copy(self, names: Mapping[int, int]) -> "KnownValues":
        """Copy the values; `names` maps identities of storages to new ones."""
        other = KnownValues()
        with no_dispatch():
            other._values = {
                names.get(key, key): value.clone() for key, value in self._values.items()
            }
        return other

    def remember(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the value of a fake tensor if it is small and has the same layout."""
        if value.numel() <= _MOST_ELEMENTS and _look_alike(tensor, value):
            self._values[storage_of(tensor)] = value

    def forget(self, storage: int) -> None:
        """Forget a storage that has died."""
        self._values.pop(storage, None)
        self._bounds.discard(storage)

    def is_bound(self, tensor: torch.Tensor) -> bool:
        """Return whether the value is an upper bound, such as that of a count."""
        return type(tensor) is FakeTensor and storage_of(tensor) in self._bounds

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the value of a tensor; None if it is unknown."""
        if type(tensor) is not FakeTensor:
            return tensor
        base = self._values.get(storage_of(tensor))
        if base is None:
            return None
        with no_dispatch():
            view = torch.empty(0, dtype=tensor.dtype)
            return view.set_(
                base.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
            )

    def follow(
        self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> None:
        """Apply an operator to the values, after it has run on the fake tensors.

        Args:
            operator: The overload.
            args: Its positional arguments.
            kwargs: Its named arguments.
            out: Its fake outputs.
        """
        name = _name(operator)
        if name in _FILLED or name in _FILLED_WITH:
            self._fill(out, _FILLED[name] if name in _FILLED else args[_FILLED_WITH[name]])
        elif name in _COUNTS and args[0].dtype is torch.bool and self.of(args[0]) is None:
            self._fill(out, args[0].numel() // max(1, out.numel()))
            self._bounds |= {storage_of(out)} & self._values.keys()
        elif not (
            self._are_known(name, args, kwargs) and self._evaluate(operator, args, kwargs, out)
        ):
            self._forget_written(operator, args, kwargs)

    def _are_known(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether all tensors among the arguments are known, or none is needed."""
        is_any = False
        for tensor in _tensors((args, kwargs)):
            is_any = True
            if type(tensor) is FakeTensor and storage_of(tensor) not in self._values:
                return False
        return is_any or name in _FACTORIES

    def _evaluate(
        self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> bool:
        """Run an operator on the values; return False if its result stays unknown."""
        made = list(_tensors(out))
        if _is_random(operator) or sum(each.numel() for each in made) > _MOST_ELEMENTS:
            return False
        if made and not any(_written(operator)) and all(map(self._has, made)):
            return True  # views
        is_bound = any(map(self.is_bound, _tensors((args, kwargs))))
        divides = any(map(self.is_bound, _tensors(args[1:]))) and "div" in operator.name()
        args, kwargs = tree_map_only(FakeTensor, self.of, (args, dict(kwargs)))
        if is_bound and (divides or not _rises(operator, args, kwargs)):
            return False
        try:
            with no_dispatch(), torch.no_grad():
                values = operator(*args, **kwargs)
        except (RuntimeError, IndexError, NotImplementedError):
            return False  # an error of the program, which trials report
        for tensor, value in zip(tree_leaves(out), tree_leaves(values), strict=True):
            if type(tensor) is FakeTensor and not self._has(tensor):
                self.remember(tensor, value)
                if is_bound:
                    self._bounds.add(storage_of(tensor))
        return True

    def _fill(self, tensor: torch.Tensor, value: float) -> None:
        if tensor.numel() <= _MOST_ELEMENTS:
            with no_dispatch():
                looks = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                self.remember(tensor, looks.fill_(value))

    def _has(self, tensor: torch.Tensor) -> bool:
        return storage_of(tensor) in self._values

    def _forget_written(
        self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        positions, names = _written(operator)
        if not (positions and self._values):
            return
        written = [args[each] for each in positions if each < len(args)]
        written += [kwargs[each] for each in names if each in kwargs]
        for tensor in _tensors(written):
            if type(tensor) is FakeTensor:
                self.forget(storage_of(tensor))


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested arguments; callers mostly stop at the first one."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for each in values:
            yield from _tensors(each)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _rises(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether bounds as arguments give a bound: nothing is subtracted or negative."""
    numbers = (each for each in tree_leaves((args, kwargs)) if isinstance(each, int | float))
    with no_dispatch():
        are_positive = all(bool((each >= 0).all()) for each in _tensors((args, kwargs)))
    return (
        operator.overloadpacket.__name__ in _RISING
        and are_positive
        and all(number >= 0 for number in numbers)
    )


@functools.cache
def _name(operator: Any) -> str:
    return str(operator.overloadpacket.__name__)


@functools.cache
def _is_random(operator: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags or "empty" in operator.name()


@functools.cache
def _written(operator: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the arguments that an operator writes to, by position and by name.

    The schemas of batch norms do not declare that they write to the running statistics.
    """
    is_norm = "batch_norm" in operator.name()
    found = [
        (number, argument.name)
        for number, argument in enumerate(operator._schema.arguments)  # noqa: SLF001 - no public name
        if is_norm or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return tuple(number for number, _ in found), tuple(name for _, name in found)


def _look_alike(tensor: torch.Tensor, value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and (tensor.dtype, tensor.shape) == (value.dtype, value.shape)
        and (tensor.stride(), tensor.storage_offset()) == (value.stride(), value.storage_offset())
        and tensor.untyped_storage().nbytes() == value.untyped_storage().nbytes()
    )
