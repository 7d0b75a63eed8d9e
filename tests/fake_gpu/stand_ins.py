"""Stand-ins for functions of PyTorch and NVML, which must be called as the real ones may be."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tests.fake_gpu.fake_card import card


def stand_in(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of another one.

    A call must fit the signature of the one that is replaced, where that has one: C functions have
    none. While the card is switched off the real one is called; one that is broken answers nothing.

    Raises:
        AttributeError: The installed package has no such function: nor has the real GPU.
    """
    real = getattr(owner, name)
    signature = _signature(real)

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        if not card().is_on:
            return real(*arguments, **named)
        if signature is not None:
            signature.bind(*arguments, **named)
        if card().broken:
            raise RuntimeError(card().broken)
        return function(*arguments, **named)

    setattr(owner, name, call)


def _signature(real: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(real)
    except (ValueError, TypeError):
        return None
