"""Backward formulas that write in place on real tensors, but not under a dispatch mode."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch

from bsprobe.simulate.cuda.autocast import Kernel

aten = torch.ops.aten
InPlace = tuple[Kernel, frozenset[str]]
"""An in-place operator, and the operators whose results it writes into."""
Formula = Mapping[Kernel, InPlace]
"""In-place operators by the out-of-place operator that a dispatch mode sees."""

_LARGER: Final[Formula] = {
    aten.masked_fill.Scalar: (aten.masked_fill_.Scalar, frozenset({"where"}))
}
_LARGEST: Final[Formula] = {
    aten.logical_and.default: (aten.logical_and_.default, frozenset({"isnan"}))
}
"""`evenly_distribute_backward`: the only in-place operator on CUDA."""
FORMULAS: Final[Mapping[str, Formula]] = MappingProxyType(
    {
        "AminmaxBackward0": {aten.add.Tensor: (aten.add_.Tensor, frozenset({"mul"}))},
        "Atan2Backward0": {
            aten.masked_fill.Scalar: (aten.masked_fill_.Scalar, frozenset({"reciprocal"}))
        },
        "BinaryCrossEntropyBackward0": {
            aten.mul.Tensor: (aten.mul_.Tensor, frozenset({"neg", "mul"}))
        },
        "BinaryCrossEntropyWithLogitsBackward0": {
            aten.sub.Tensor: (
                aten.sub_.Tensor,
                frozenset({"sigmoid", "add", "mul", "log_sigmoid_forward"}),
            ),
            aten.mul.Tensor: (aten.mul_.Tensor, frozenset({"sub", "mul", "log_sigmoid_forward"})),
        },
        "ClampMaxBackward1": _LARGER,
        "ClampMinBackward1": _LARGER,
        "FmaxBackward0": _LARGER,
        "FminBackward0": _LARGER,
        "MaximumBackward0": _LARGER,
        "MinimumBackward0": _LARGER,
        "MaxBackward1": _LARGEST,
        "MedianBackward0": _LARGEST,
        "MinBackward1": _LARGEST,
        "NanmedianBackward0": _LARGEST,
        "TraceBackward0": {
            aten.index_fill.int_Tensor: (aten.index_fill_.int_Tensor, frozenset({"zeros"}))
        },
    }
)
"""Formulas by the name of the autograd node.

Source: `aminmax_backward`, `atan2_backward`, `evenly_distribute_backward`,
`binary_cross_entropy_target_backward`, `binary_cross_entropy_with_logits_backward` and
`binary_cross_entropy_with_logits_target_backward` in torch/csrc/autograd/FunctionsManual.cpp,
`trace_backward` in ATen/native/ReduceOps.cpp, and tools/autograd/derivatives.yaml."""
