"""Programs that name the device: `cuda` is the device on which everything is traced."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses import FakeTensor

_TRACED_ON = torch.device("cpu")
_NAMED = "cuda"


@contextmanager
def named_device() -> Iterator[None]:
    """Let `Tensor.cuda` and `Tensor.to` find their tensors on the device already."""
    with mock.patch.multiple(FakeTensor, cuda=_itself, to=_moved):
        yield


def names_gpu(kwargs: Mapping[str, Any]) -> bool:
    """True where the arguments of an operator name a GPU."""
    device = kwargs.get("device")
    return device is not None and device.type == _NAMED


def with_device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the device that is traced on."""
    return {**kwargs, "device": _TRACED_ON}


def _itself(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return tensor


def _moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    named = {name: _here(value) for name, value in kwargs.items()}
    return torch.Tensor.to(tensor, *map(_here, args), **named)


def _here(value: Any) -> Any:
    is_device = isinstance(value, str | torch.device)
    return _TRACED_ON if is_device and torch.device(value).type == _NAMED else value
