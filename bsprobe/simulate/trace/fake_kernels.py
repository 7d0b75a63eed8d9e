"""Answers of PyTorch's fake kernels, remembered: most operators of a network run many times.

Fake tensors have a memory of their own, but describing an operator's arguments to it takes longer
than all else in a trace.
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
"""Types of arguments besides tensors and collections."""
_layout_of = torch.Tensor.layout.__get__  # type: ignore[attr-defined] # a property, made in C


class _NotDescribableError(Exception):
    """An answer depends on more than what the arguments look like, or cannot be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looks:
    """A tensor that is made anew: one that fills its storage, or a view of an argument."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int
    view_of: int | None

    def made(self, args: tuple[Any, ...]) -> torch.Tensor:
        """Make it, within an invocation of a kernel: nobody sees what runs here."""
        if self.view_of is None:
            return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        storage = args[self.view_of].untyped_storage()
        view = torch.empty((), dtype=self.dtype, device="meta")
        return view.set_(storage, self.offset, self.shape, self.stride)


_Output = _Looks | int | None
"""An output: made anew, the argument at this place, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The result of an operator: a tensor, or a collection of some type."""

    outputs: tuple[_Output, ...]
    collection: type | None


_known: dict[Any, _Answer | None] = {}
"""By operator and arguments; None where an answer cannot be made again. One for the process, like
fake tensors' own: what an operator answers is the same in every network."""


@functools.cache
def is_composite(operator: Any) -> bool:
    """True for an operator that is made of others; some are so only where a device has no kernel.

    Of those, such as `silu_backward`, the CPU has one wherever CUDA has one.
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001 - no public name
    name = operator.name()
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


@functools.cache
def only_writes(operator: Any) -> bool:
    """True for an operator that makes nothing, such as `_foreach_add_`: there is nothing to do.

    An optimizer hands all its tensors to one of those, and fake tensors look at each.
    """
    return operator.namespace == "aten" and not operator._schema.returns  # noqa: SLF001 - its name


def storage_of(tensor: torch.Tensor) -> int:
    """The identity of what a tensor lies in: views share it."""
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - no public name
    return identity


def run_fake(
    mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """An operator's outputs on fake tensors, with the types and sizes that they have on CUDA."""
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
    """All that the outputs of one of PyTorch's own operators depend on."""
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
    """A description of an argument that can be looked up."""
    kind = type(value)
    if kind is FakeTensor:
        # A tensor that knows its values hands them on; one that is not strided has other looks.
        dtype = value.dtype
        if value.constant is not None or dtype.is_complex or _layout_of(value) != torch.strided:
            raise _NotDescribableError
        return value.shape, value.stride(), dtype, value.storage_offset(), value.fake_device
    if kind is tuple or kind is list:
        return kind, *map(_looks, value)
    if kind not in _PLAIN:
        raise _NotDescribableError
    return kind, value  # 1, 1.0 and True are equal, but what comes of them is not


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
