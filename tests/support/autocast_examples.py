"""Arguments for a call of each operator that CUDA's autocast casts."""

from collections.abc import Callable
from typing import Any

import torch

Make = Callable[..., torch.Tensor]
"""Makes a tensor of a shape; each call uses the next dtype of the example."""
Arguments = Callable[[Make], tuple[Any, ...]]


def _tensors(*shapes: tuple[int, ...], then: tuple[Any, ...] = ()) -> Arguments:
    """Return arguments that are tensors of some shapes, followed by `then`."""
    return lambda make: (*(make(*shape) for shape in shapes), *then)


def _indices(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _list(make: Make) -> tuple[Any, ...]:
    return ([make(4, 4), make(4, 4), make(4, 4)],)


def _classes(make: Make) -> tuple[Any, ...]:
    return make(4, 4), _indices(4)


def _maps(dimensions: int, *then: Any) -> Arguments:
    return _tensors((1, 2, *[4] * dimensions), then=then)


def _up(dimensions: int, *then: Any) -> Arguments:
    return _maps(dimensions, [8] * dimensions, *then)


def _conv(dimensions: int, *then: Any) -> Arguments:
    return _tensors((1, 4, *[8] * dimensions), (4, 4, *[3] * dimensions), (4,), then=then)


def _whole_conv(*flags: bool) -> Arguments:
    return _conv(2, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, *flags)  # noqa: FBT003 - PyTorch's signature


def _cell(gates: int, *, memory: bool = False) -> Arguments:
    def arguments(make: Make) -> tuple[Any, ...]:
        state: Any = [make(2, 4), make(2, 4)] if memory else make(2, 4)
        weights = make(4 * gates, 4), make(4 * gates, 4)
        return make(2, 4), state, *weights, make(4 * gates), make(4 * gates)

    return arguments


_M, _V, _S = (4, 4), (4,), (2, 4, 4)
"""A matrix, a vector, a stack of matrices."""
_ALIKE: dict[str, Arguments] = {
    """acos asin cosh erfinv exp expm1 linalg_matrix_norm.str_ord linalg_vector_norm log log10 log1p
    log2 norm.Scalar nuclear_norm pdist prod reciprocal rsqrt sinh softplus sum tan""": _tensors(
        _M
    ),
    """atan2 binary_cross_entropy_with_logits cdist cosine_similarity dist hinge_embedding_loss
    huber_loss kl_div l1_loss linalg_vecdot mm mse_loss pow.Tensor_Tensor smooth_l1_loss
    soft_margin_loss""": _tensors(_M, _M),
    "addcdiv addcmul addmm triplet_margin_loss": _tensors(_M, _M, _M),
    "bmm matmul": _tensors(_S, _S),
    "mv prelu": _tensors(_M, _V),
    "dot vdot": _tensors(_V, _V),
    "cumprod cumsum linalg_matrix_norm log_softmax.int prod.dim_int softmax.int": _tensors(
        _M, then=(1,)
    ),
    "logsumexp sum.dim_IntList": _tensors(_M, then=([1],)),
    "frobenius_norm.dim nuclear_norm.dim": _tensors(_M, then=([0, 1],)),
    "chain_matmul linalg_multi_dot": _list,
    "multi_margin_loss nll_loss": _classes,
    "conv1d conv_transpose1d": _conv(1),
    "conv2d conv_transpose2d.input": _conv(2),
    "conv3d conv_transpose3d.input": _conv(3),
    "rnn_relu_cell rnn_tanh_cell": _cell(1),
    "upsample_nearest1d _upsample_nearest_exact1d": _up(1),
    "upsample_nearest2d _upsample_nearest_exact2d": _up(2),
    "upsample_nearest3d _upsample_nearest_exact3d": _up(3),
    """upsample_bicubic2d upsample_bilinear2d _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa""": _up(2, False),  # noqa: FBT003 - PyTorch's signature
}
ARGUMENTS: dict[str, Arguments] = {
    **{name: arguments for names, arguments in _ALIKE.items() for name in names.split()},
    "_convolution": _whole_conv(False, False, True, True),  # noqa: FBT003 - PyTorch's signature
    "_convolution.deprecated": _whole_conv(False, False, True),  # noqa: FBT003 - as above
    "convolution": _whole_conv(),
    "addbmm": _tensors(_M, _S, _S),
    "addmv": _tensors(_V, _M, _V),
    "addr": _tensors(_M, _V, _V),
    "baddbmm": _tensors(_S, _S, _S),
    "bilinear": _tensors((2, 4), (2, 4), (3, 4, 4), (3,)),
    "conv_tbc": _tensors((8, 1, 4), (3, 4, 4), _V),
    "cosine_embedding_loss": lambda make: (make(4, 4), make(4, 4), torch.ones(4)),
    "cross": _tensors((4, 3), (4, 3), then=(1,)),
    "einsum": lambda make: ("ij,jk->ik", [make(4, 4), make(4, 4)]),
    "grid_sampler": _tensors((1, 2, 4, 4), (1, 4, 4, 2), then=(0, 0, False)),
    "group_norm": lambda make: (make(2, 4, 4, 4), 2, make(4), make(4)),
    "gru_cell": _cell(3),
    "index_put": lambda make: (make(4), [_indices(2)], make(2)),
    "layer_norm": lambda make: (make(4, 4), [4], make(4), make(4)),
    "linear": _tensors((2, 4), _M, _V),
    "lstm_cell": _cell(4, memory=True),
    "margin_ranking_loss": _tensors(_V, _V, _V),
    "multilabel_margin_loss": lambda make: (make(4, 4), _indices(4, 4)),
    "native_layer_norm": lambda make: (make(4, 4), [4], make(4), make(4), 1e-5),
    "nll_loss2d": lambda make: (make(1, 4, 4, 4), _indices(1, 4, 4)),
    "norm.ScalarOpt_dim": _tensors(_M, then=(2, [0])),
    "poisson_nll_loss": _tensors(_M, _M, then=(True, False, 1e-8, 1)),
    "pow.Scalar": lambda make: (2.0, make(4, 4)),
    "pow.Tensor_Scalar": _tensors(_M, then=(2.0,)),
    "renorm": _tensors(_M, then=(2, 0, 1.0)),
    "rms_norm": lambda make: (make(4, 4), [4], make(4)),
    "scaled_dot_product_attention": _tensors(*[(1, 2, 4, 8)] * 3),
    "scatter_add": lambda make: (make(4), 0, _indices(4), make(4)),
    "tensordot": _tensors(_M, _M, then=([1], [0])),
    "upsample_linear1d": _up(1, False),  # noqa: FBT003 - PyTorch's signature
    "upsample_trilinear3d": _up(3, False),  # noqa: FBT003 - as above
}
"""Examples for operators that both devices cast, or only CUDA."""
CPU_ALONE: dict[str, Arguments] = {
    **dict.fromkeys(("adaptive_avg_pool3d", "avg_pool3d", "max_pool3d"), _maps(3, [2, 2, 2])),
    **dict.fromkeys(("cat", "stack"), _list),
    **dict.fromkeys(("linalg_inv", "trace"), _tensors(_M)),
    **dict.fromkeys(("reflection_pad2d", "replication_pad2d"), _maps(2, [1, 1, 1, 1])),
    "conv2d.padding": _conv(2, [1, 1], "same"),
    "cross_entropy_loss": _classes,
    "grid_sampler_2d": _tensors((1, 2, 4, 4), (1, 4, 4, 2), then=(0, 0, False)),
}
"""Examples for operators that only the CPU casts."""
