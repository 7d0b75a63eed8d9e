"""Memory of CUDA's loss kernels: the loss of each element, before it is reduced.

Some kernels write the mean or the sum into that tensor, whose memory stays as large as it was: it
lives as long as the loss, which mostly is until the next step has made its own.
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
"""`at::Reduction::Mean`, which is every loss's default."""
_NONE = 0
_REDUCTION_OF_LOGITS = 4
"""The place of the reduction among the arguments of `binary_cross_entropy_with_logits`."""
_POSITIVE_WEIGHT = 3


def _of_elements(args: tuple[Any, ...], out: Any) -> int:
    """The bytes of a loss for each element."""
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    return math.prod(shape) * out.element_size()  # type: ignore[no-any-return] # a tensor's


def _freed(reduction: int) -> Rule:
    """A loss of each element that is given back.

    Args:
        reduction: The place of this argument.
    """

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        if _reduction_of(args, reduction) != _NONE:
            yield Inside(sizes=(_of_elements(args, out),))
        yield out

    return rule


def _kept(reduction: int, *, is_doubled: bool = False) -> Rule:
    """A loss of each element whose memory the reduced one keeps.

    Args:
        reduction: The place of this argument.
        is_doubled: True for a kernel that reduces a second tensor into it.
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
    """`log_sigmoid` beside the loss of each element (ATen/native/Loss.cpp)."""
    return _with_tensors(1, args, out)


def _of_logits_by_exponentials(args: tuple[Any, ...], out: Any) -> Effects:
    """Four tensors beside the loss, all there at once, and the logarithm of positive weights.

    `-input`, its positive part, what is left without that part, and an exponential: the temporaries
    of C++ live until their statement ends. Source: ATen/native/Loss.cpp of 1.5 to 1.11; from 1.12
    on it was one more.
    """
    has_weight = len(args) > _POSITIVE_WEIGHT and args[_POSITIVE_WEIGHT] is not None
    return _with_tensors(5 if has_weight else 4, args, out)


def _with_tensors(beside: int, args: tuple[Any, ...], out: Any) -> Effects:
    """Give tensors of the logits' size beside the loss of each element, then the result."""
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
        # ATen/native/BinaryOps.cpp: the result is allocated before it is known to be smaller.
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
"""Rules for a version without the change that ended them."""
