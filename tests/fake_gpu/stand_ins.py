"""Stand-ins for functions of PyTorch and NVML that accept the same calls as the real ones."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from tests.fake_gpu.fake_card import card


def stand_in(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a function.

    Calls must fit the signature of the original, if it has one (C functions have none). While the
    card is switched off, the original is called; a broken card raises on every call.

    Args:
        owner: The module or class of the function.
        name: The name of the function.
        function: The stand-in.

    Raises:
        AttributeError: The installed package has no such function.
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
