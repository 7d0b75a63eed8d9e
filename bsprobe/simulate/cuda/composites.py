"""Composite operators that PyTorch takes apart otherwise where a dispatch mode watches it.

They then write nothing in place (`isTensorSubclassLike` in ATen/TensorSubclassLikeUtils.h). These
kernels call the operators that they call on real tensors.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from bsprobe.simulate.cuda.autocast import Kernel

aten = torch.ops.aten
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001 - no public name
_MATRIX = 2
"""Dimensions of an input of `linear` that needs no reshaping."""


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """Add the bias in place where it cannot be fused (`linear` in ATen/native/Linear.cpp).

    It is fused into the product of a matrix, or of a contiguous input of more dimensions.
    """
    if bias is None or x.dim() == _MATRIX or x.is_contiguous():
        return aten.linear.default._op_dk(_COMPOSITE, x, weight, bias)  # noqa: SLF001 - as above
    return aten.matmul(x, weight.t()).add_(bias)


COMPOSITES: Final[Mapping[str, Kernel]] = MappingProxyType({"linear": _linear})
"""Kernels by the name of the operator."""
