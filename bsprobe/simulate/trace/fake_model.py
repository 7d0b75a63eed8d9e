"""A real network without its data: fake tensors know shape, type and layout, and hold nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from bsprobe.records.variants import Variant
from bsprobe.simulate.trace.compiled import path_as_written
from bsprobe.simulate.trace.named_device import named_device
from bsprobe.training.models.factory import build_model

_WITH_LAYOUT = (4, 5)
"""Dimensions of the tensors that `nn.Module.to(memory_format=…)` rearranges."""
_RANDOM_FILLS = frozenset(
    {
        "normal_",
        "uniform_",
        "kaiming_normal_",
        "kaiming_uniform_",
        "xavier_normal_",
        "xavier_uniform_",
        "orthogonal_",
        "erfinv_",
        "randn",
        "rand",
    }
)


def build_without_values(variant: Variant) -> nn.Module:
    """Build a network for real, as many can only be built so, but leave its random values out.

    Raises:
        UsageError: The variant names something unknown.
    """
    with named_device(), _WithoutRandomValues(), _without_truncation():
        return build_model(variant)


def make_fake(
    model: nn.Module,
    mode: FakeTensorMode,
    on_move: Callable[[torch.Tensor, torch.Tensor, str], None],
) -> None:
    """Exchange all parameters and buffers for fake ones, in the order in which `to` moves them.

    Args:
        model: Changed in place.
        mode: Whose fake tensors they become.
        on_move: Told of each tensor that has been moved, of the real one, and of the module it
            belongs to.
    """
    moved: dict[int, torch.Tensor] = {}  # shared tensors are moved once
    real: list[torch.Tensor] = []  # kept until the end: another one could take its identity
    for name, module in _children_first(model):
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001 - as `_apply` does
        for tensors in holders:
            for key, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    real.append(tensor)
                    moved[id(tensor)] = _faked(tensor, mode)
                    on_move(moved[id(tensor)], tensor, path_as_written(name))
                tensors[key] = moved[id(tensor)]


def _faked(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = mode.from_tensor(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake


def _children_first(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules in the order of `nn.Module._apply`."""
    for key, child in module.named_children():
        yield from _children_first(child, f"{name}.{key}" if name else key)
    yield name, module


def rearrange(model: nn.Module) -> None:
    """Lay a network out channels-last, tensor by tensor: what `to(memory_format=…)` does.

    That method itself cannot: it swaps tensors, which fake ones do not allow.
    """
    for _, module in _children_first(model):
        for tensor in (*module._parameters.values(), *module._buffers.values()):  # noqa: SLF001 - as above
            if tensor is None or tensor.dim() not in _WITH_LAYOUT:
                continue
            is_flat = tensor.dim() == _WITH_LAYOUT[0]
            layout = torch.channels_last if is_flat else torch.channels_last_3d
            tensor.data = tensor.data.to(memory_format=layout)


class _WithoutRandomValues(TorchFunctionMode):
    """Skips filling tensors at random: most of the time that building a network takes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # `torch.nn.init` passes its tensor by name.
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _RANDOM_FILLS and isinstance(filled, torch.Tensor):
            return filled
        return func(*args, **kwargs)


@contextmanager
def _without_truncation() -> Iterator[None]:
    """Leave `torch.nn.init.trunc_normal_` out as a whole: no mode sees it.

    From PyTorch 2.15 on it draws until all values are within its bounds, and where drawing is left
    out whatever lies in the memory may never be.
    """
    draw = torch.nn.init._no_grad_trunc_normal_
    torch.nn.init._no_grad_trunc_normal_ = _left_as_it_is
    try:
        yield
    finally:
        torch.nn.init._no_grad_trunc_normal_ = draw


def _left_as_it_is(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor
