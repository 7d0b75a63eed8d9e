"""A cache of the results of PyTorch's fake kernels.

Most operators of a network run many times. Fake tensors have a cache too, but computing its keys
takes longer than the rest of a trace.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

from bsprobe.simulate.cuda import as_on_cuda

_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
_PLAIN |= {torch.layout, torch.memory_format}
"""Types of arguments that can be part of a key, besides tensors and collections."""
_layout_of = torch.Tensor.layout.__get__  # type: ignore[attr-defined] # a property, made in C


class _NotDescribableError(Exception):
    """A result depends on more than the arguments' metadata, or cannot be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looks:
    """Metadata of a tensor that fills its storage, or of a view of an argument."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int
    view_of: int | None

    def made(self, args: tuple[Any, ...]) -> torch.Tensor:
        """Make the tensor; call it within a kernel invocation, where no mode sees operators."""
        if self.view_of is None:
            return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        storage = args[self.view_of].untyped_storage()
        view = torch.empty((), dtype=self.dtype, device="meta")
        return view.set_(storage, self.offset, self.shape, self.stride)


_Output = _Looks | int | None
"""An output: a new tensor, the argument at an index, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The result of an operator: one output, or a collection of outputs."""

    outputs: tuple[_Output, ...]
    collection: type | None


_known: dict[Any, _Answer | None] = {}
"""Results by operator and arguments; None if a result cannot be made again. The process has one, as
operators return the same in every network."""


@functools.cache
def is_composite(operator: Any) -> bool:
    """Return whether an operator is decomposed into others on CUDA.

    Some operators, such as `silu_backward`, are decomposed only on devices without a kernel for
    them. The CPU has a kernel wherever CUDA has one.
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001 - no public name
    name = operator.name()
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


@functools.cache
def only_writes(operator: Any) -> bool:
    """Return whether an operator returns nothing, such as `_foreach_add_`, and can be skipped.

    An optimizer passes all its tensors to such operators; fake tensors would inspect each.
    """
    return operator.namespace == "aten" and not operator._schema.returns  # noqa: SLF001 - no public name


def storage_of(tensor: torch.Tensor) -> int:
    """Return the identity of a tensor's storage, which views share."""
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - no public name
    return identity


def run_fake(
    mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run an operator on fake tensors, or make its cached outputs again.

    Args:
        mode: The mode of the fake tensors.
        operator: An overload, such as `aten.add.Tensor`.
        args: Its positional arguments.
        kwargs: Its named arguments.

    Returns:
        The outputs, with the types and sizes that they have on CUDA.
    """
    try:
        key = _key(operator, args, kwargs)
    except _NotDescribableError:
        key = None
    answer = _known.get(key)
    if answer is not None:
        return _made(answer, mode, args)
    out = as_on_cuda(operator, args, operator(*args, **kwargs))
    if key is not None and key not in _known:
        try:
            has_changed = _key(operator, args, kwargs) != key  # such as by `resize_`
            _known[key] = None if has_changed else _described(out, args, kwargs)
        except _NotDescribableError:
            _known[key] = None
    return out


def _key(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return everything that the outputs of an operator of ATen depend on."""
    if operator.namespace != "aten":
        raise _NotDescribableError
    return (
        operator,
        _looks(args),
        tuple((name, _looks(value)) for name, value in kwargs.items()),
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
    )


def _looks(value: Any) -> Any:
    """Return a hashable description of an argument."""
    kind = type(value)
    if kind is FakeTensor:
        # Constants pass on their values; other layouts than strided have other metadata.
        dtype = value.dtype
        if value.constant is not None or dtype.is_complex or _layout_of(value) != torch.strided:
            raise _NotDescribableError
        return value.shape, value.stride(), dtype, value.storage_offset(), value.fake_device
    if kind is tuple or kind is list:
        return kind, *map(_looks, value)
    if kind not in _PLAIN:
        raise _NotDescribableError
    return kind, value  # 1, 1.0 and True are equal, but their results differ


def _described(out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Answer:
    collection = type(out) if isinstance(out, tuple | list) else None
    outputs = (out,) if collection is None else tuple(out)
    leaves = (each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor))
    owners: dict[int, int | None] = dict.fromkeys(map(storage_of, leaves))
    owners |= {storage_of(each): place for place, each in enumerate(args) if _is_fake(each)}
    described = tuple(_output(each, args, owners) for each in outputs)
    storages = [storage_of(each) for each in outputs if each is not None]
    if len(set(storages)) < len(storages):
        raise _NotDescribableError
    return _Answer(outputs=described, collection=collection)


def _output(out: Any, args: tuple[Any, ...], owners: Mapping[int, int | None]) -> _Output:
    if out is None:
        return None
    if not _is_fake(out) or out.constant is not None or out.layout != torch.strided:
        raise _NotDescribableError
    place = next((place for place, each in enumerate(args) if each is out), None)
    if place is not None:
        return place
    looks = _Looks(
        shape=out.shape,
        stride=out.stride(),
        dtype=out.dtype,
        device=out.fake_device,
        offset=out.storage_offset(),
        view_of=owners.get(storage_of(out)),
    )
    if looks.view_of is None and (storage_of(out) in owners or not _fills_its_storage(out)):
        raise _NotDescribableError
    return looks


def _fills_its_storage(tensor: torch.Tensor) -> bool:
    dimensions = zip(tensor.shape, tensor.stride(), strict=True)
    reach = 1 + sum((size - 1) * stride for size, stride in dimensions) if tensor.numel() else 0
    filled = reach * tensor.element_size()
    return bool(tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == filled)


def _made(answer: _Answer, mode: FakeTensorMode, args: tuple[Any, ...]) -> Any:
    made = tuple(_output_again(each, mode, args) for each in answer.outputs)
    return made[0] if answer.collection is None else answer.collection(made)


def _output_again(output: _Output, mode: FakeTensorMode, args: tuple[Any, ...]) -> Any:
    if isinstance(output, _Looks):
        with in_kernel_invocation_manager(mode):
            made = output.made(args)
        return FakeTensor(mode, made, output.device)
    return None if output is None else args[output]


def _is_fake(value: Any) -> bool:
    return type(value) is FakeTensor
