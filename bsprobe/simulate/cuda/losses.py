"""Temporary memory of CUDA's loss kernels: the elementwise loss before its reduction.

Some kernels write the mean or the sum into the tensor of the elementwise loss without shrinking its
storage. That storage then lives as long as the loss, usually until the next step's loss exists.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from bsprobe.simulate.cuda.effects import Effects, Inside, Rule
from bsprobe.simulate.versions import Change

aten = torch.ops.aten
_MEAN = 1
"""`at::Reduction::Mean`, the default of all losses."""
_NONE = 0
_REDUCTION_OF_LOGITS = 4
"""Index of the reduction among the arguments of `binary_cross_entropy_with_logits`."""
_POSITIVE_WEIGHT = 3


def _of_elements(args: tuple[Any, ...], out: Any) -> int:
    """Bytes of the elementwise loss."""
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    return math.prod(shape) * out.element_size()  # type: ignore[no-any-return] # a tensor's


def _freed(reduction: int) -> Rule:
    """Make a rule for a kernel that frees the elementwise loss after its reduction.

    Args:
        reduction: Index of the reduction among the arguments.
    """

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        if _reduction_of(args, reduction) != _NONE:
            yield Inside(sizes=(_of_elements(args, out),))
        yield out

    return rule


def _kept(reduction: int, *, is_doubled: bool = False) -> Rule:
    """Make a rule for a kernel whose reduced loss keeps the memory of the elementwise loss.

    Args:
        reduction: Index of the reduction among the arguments.
        is_doubled: True for a kernel that also allocates a second tensor of that size.
    """

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        if _reduction_of(args, reduction) == _NONE:
            yield out
            return
        size = _of_elements(args, out)
        out.untyped_storage().resize_(size)
        yield out
        if is_doubled:
            yield Inside(sizes=(size,))

    return rule


def _of_logits(args: tuple[Any, ...], out: Any) -> Effects:
    """`log_sigmoid` beside the elementwise loss (ATen/native/Loss.cpp)."""
    return _with_tensors(1, args, out)


def _of_logits_by_exponentials(args: tuple[Any, ...], out: Any) -> Effects:
    """Four simultaneous tensors beside the loss, and one for positive weights.

    They are `-input`, its positive part, the difference of the two, and an exponential. C++
    temporaries live until the end of their statement.

    Source: ATen/native/Loss.cpp of 1.5 to 1.11; from 1.12 on there was one more.
    """
    has_weight = len(args) > _POSITIVE_WEIGHT and args[_POSITIVE_WEIGHT] is not None
    return _with_tensors(5 if has_weight else 4, args, out)


def _with_tensors(beside: int, args: tuple[Any, ...], out: Any) -> Effects:
    """Temporary tensors of the logits' size beside the elementwise loss, and the result."""
    is_reduced = _reduction_of(args, _REDUCTION_OF_LOGITS) != _NONE
    size = args[0].numel() * out.element_size()
    if not is_reduced:
        yield out
    yield Inside(sizes=(size,) * (beside + is_reduced))
    if is_reduced:
        yield out


def _reduction_of(args: tuple[Any, ...], place: int) -> int:
    reduction: int = args[place] if len(args) > place else _MEAN
    return reduction


LOSSES: Final[Mapping[Any, Rule]] = MappingProxyType(
    {
        # ATen/native/BinaryOps.cpp: the result is allocated with the elementwise size.
        aten.mse_loss.default: _kept(2, is_doubled=True),
        aten.smooth_l1_loss.default: _kept(2, is_doubled=True),
        # ATen/native/Loss.cpp, and cuda/Loss.cu.
        aten.huber_loss.default: _freed(2),
        aten.soft_margin_loss.default: _kept(2),
        aten.binary_cross_entropy.default: _kept(3),
        aten.binary_cross_entropy_with_logits.default: _of_logits,
    }
)
UNTIL: Final[Mapping[Change, Mapping[Any, Rule]]] = MappingProxyType(
    {
        Change.LOGITS_LOSS_BY_LOG_SIGMOID: {
            aten.binary_cross_entropy_with_logits.default: _of_logits_by_exponentials
        }
    }
)
"""Rules for versions before a change."""
