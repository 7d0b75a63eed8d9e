"""Arguments for a call of each operator that CUDA's autocast casts."""

from collections.abc import Callable
from typing import Any

import torch

Make = Callable[..., torch.Tensor]
"""Makes a tensor of a shape; each call takes the next dtype of the example."""
Arguments = Callable[[Make], tuple[Any, ...]]


def _one(make: Make) -> tuple[Any, ...]:
    return (make(4, 4),)


def _two(make: Make) -> tuple[Any, ...]:
    return make(4, 4), make(4, 4)


def _three(make: Make) -> tuple[Any, ...]:
    return make(4, 4), make(4, 4), make(4, 4)


def _batched(make: Make) -> tuple[Any, ...]:
    return make(2, 4, 4), make(2, 4, 4)


def _matrix_and_vector(make: Make) -> tuple[Any, ...]:
    return make(4, 4), make(4)


def _vectors(make: Make) -> tuple[Any, ...]:
    return make(4), make(4)


def _dimension(make: Make) -> tuple[Any, ...]:
    return make(4, 4), 1


def _dimensions(make: Make) -> tuple[Any, ...]:
    return make(4, 4), [0, 1]


def _list(make: Make) -> tuple[Any, ...]:
    return ([make(4, 4), make(4, 4), make(4, 4)],)


def _classes(make: Make) -> tuple[Any, ...]:
    return make(4, 4), _indices(4)


def _indices(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _up(dimensions: int) -> Arguments:
    return lambda make: (make(1, 2, *[4] * dimensions), [8] * dimensions)


def _up_aligned(dimensions: int) -> Arguments:
    return lambda make: (make(1, 2, *[4] * dimensions), [8] * dimensions, False)


def _conv(dimensions: int) -> Arguments:
    return lambda make: (make(1, 4, *[8] * dimensions), make(4, 4, *[3] * dimensions), make(4))


def _whole_conv(flags: tuple[bool, ...] = ()) -> Arguments:
    settings = [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    return lambda make: (*_conv(2)(make), *settings, *flags)


def _cell(gates: int, *, memory: bool = False) -> Arguments:
    def arguments(make: Make) -> tuple[Any, ...]:
        state: Any = [make(2, 4), make(2, 4)] if memory else make(2, 4)
        weights = make(4 * gates, 4), make(4 * gates, 4)
        return make(2, 4), state, *weights, make(4 * gates), make(4 * gates)

    return arguments


ARGUMENTS: dict[str, Arguments] = {
    # Half precision.
    "_convolution": _whole_conv((False, False, True, True)),
    "_convolution.deprecated": _whole_conv((False, False, True)),
    "addbmm": lambda make: (make(4, 4), *_batched(make)),
    "addmm": _three,
    "addmv": lambda make: (make(4), *_matrix_and_vector(make)),
    "addr": lambda make: (make(4, 4), make(4), make(4)),
    "baddbmm": lambda make: (make(2, 4, 4), *_batched(make)),
    "bmm": _batched,
    "chain_matmul": _list,
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "conv3d": _conv(3),
    "conv_tbc": lambda make: (make(8, 1, 4), make(3, 4, 4), make(4)),
    "conv_transpose1d": _conv(1),
    "conv_transpose2d.input": _conv(2),
    "conv_transpose3d.input": _conv(3),
    "convolution": _whole_conv(),
    "einsum": lambda make: ("ij,jk->ik", [make(4, 4), make(4, 4)]),
    "gru_cell": _cell(3),
    "linalg_multi_dot": _list,
    "linalg_vecdot": _two,
    "linear": lambda make: (make(2, 4), make(4, 4), make(4)),
    "lstm_cell": _cell(4, memory=True),
    "matmul": _batched,
    "mm": _two,
    "mv": _matrix_and_vector,
    "prelu": _matrix_and_vector,
    "rnn_relu_cell": _cell(1),
    "rnn_tanh_cell": _cell(1),
    "scaled_dot_product_attention": lambda make: tuple(make(1, 2, 4, 8) for _ in range(3)),
    # Full precision.
    "acos": _one,
    "asin": _one,
    "binary_cross_entropy_with_logits": _two,
    "cdist": _two,
    "cosh": _one,
    "cosine_embedding_loss": lambda make: (make(4, 4), make(4, 4), torch.ones(4)),
    "cosine_similarity": _two,
    "dist": _two,
    "erfinv": _one,
    "exp": _one,
    "expm1": _one,
    "frobenius_norm.dim": _dimensions,
    "group_norm": lambda make: (make(2, 4, 4, 4), 2, make(4), make(4)),
    "hinge_embedding_loss": _two,
    "huber_loss": _two,
    "kl_div": _two,
    "l1_loss": _two,
    "layer_norm": lambda make: (make(4, 4), [4], make(4), make(4)),
    "log": _one,
    "log10": _one,
    "log1p": _one,
    "log2": _one,
    "logsumexp": lambda make: (make(4, 4), [1]),
    "margin_ranking_loss": lambda make: (make(4), make(4), make(4)),
    "mse_loss": _two,
    "multi_margin_loss": _classes,
    "multilabel_margin_loss": lambda make: (make(4, 4), _indices(4, 4)),
    "native_layer_norm": lambda make: (make(4, 4), [4], make(4), make(4), 1e-5),
    "nll_loss": _classes,
    "nll_loss2d": lambda make: (make(1, 4, 4, 4), _indices(1, 4, 4)),
    "nuclear_norm": _one,
    "nuclear_norm.dim": _dimensions,
    "pdist": _one,
    "poisson_nll_loss": lambda make: (make(4, 4), make(4, 4), True, False, 1e-8, 1),
    "pow.Scalar": lambda make: (2.0, make(4, 4)),
    "pow.Tensor_Scalar": lambda make: (make(4, 4), 2.0),
    "pow.Tensor_Tensor": _two,
    "reciprocal": _one,
    "renorm": lambda make: (make(4, 4), 2, 0, 1.0),
    "rms_norm": lambda make: (make(4, 4), [4], make(4)),
    "rsqrt": _one,
    "sinh": _one,
    "smooth_l1_loss": _two,
    "soft_margin_loss": _two,
    "softplus": _one,
    "tan": _one,
    "triplet_margin_loss": _three,
    "upsample_bicubic2d": _up_aligned(2),
    "upsample_bilinear2d": _up_aligned(2),
    "upsample_linear1d": _up_aligned(1),
    "upsample_nearest1d": _up(1),
    "upsample_nearest2d": _up(2),
    "upsample_nearest3d": _up(3),
    "upsample_trilinear3d": _up_aligned(3),
    "_upsample_bicubic2d_aa": _up_aligned(2),
    "_upsample_bilinear2d_aa": _up_aligned(2),
    "_upsample_nearest_exact1d": _up(1),
    "_upsample_nearest_exact2d": _up(2),
    "_upsample_nearest_exact3d": _up(3),
    # Full precision of the output.
    "cumprod": _dimension,
    "cumsum": _dimension,
    "linalg_matrix_norm": lambda make: (make(4, 4), 1),
    "linalg_matrix_norm.str_ord": _one,
    "linalg_vector_norm": _one,
    "log_softmax.int": _dimension,
    "norm.Scalar": _one,
    "norm.ScalarOpt_dim": lambda make: (make(4, 4), 2, [0]),
    "prod": _one,
    "prod.dim_int": _dimension,
    "softmax.int": _dimension,
    "sum": _one,
    "sum.dim_IntList": lambda make: (make(4, 4), [1]),
    # The widest type.
    "addcdiv": _three,
    "addcmul": _three,
    "atan2": _two,
    "bilinear": lambda make: (make(2, 4), make(2, 4), make(3, 4, 4), make(3)),
    "cross": lambda make: (make(4, 3), make(4, 3), 1),
    "dot": _vectors,
    "grid_sampler": lambda make: (make(1, 2, 4, 4), make(1, 4, 4, 2), 0, 0, False),
    "index_put": lambda make: (make(4), [_indices(2)], make(2)),
    "scatter_add": lambda make: (make(4), 0, _indices(4), make(4)),
    "tensordot": lambda make: (make(4, 4), make(4, 4), [1], [0]),
    "vdot": _vectors,
}

"""Of all operators that both devices cast, or CUDA alone."""
CPU_ALONE: dict[str, Arguments] = {
    "adaptive_avg_pool3d": lambda make: (make(1, 2, 4, 4, 4), [2, 2, 2]),
    "avg_pool3d": lambda make: (make(1, 2, 4, 4, 4), [2, 2, 2]),
    "cat": _list,
    "conv2d.padding": lambda make: (*_conv(2)(make), [1, 1], "same"),
    "cross_entropy_loss": _classes,
    "grid_sampler_2d": lambda make: (make(1, 2, 4, 4), make(1, 4, 4, 2), 0, 0, False),
    "linalg_inv": _one,
    "max_pool3d": lambda make: (make(1, 2, 4, 4, 4), [2, 2, 2]),
    "reflection_pad2d": lambda make: (make(1, 2, 4, 4), [1, 1, 1, 1]),
    "replication_pad2d": lambda make: (make(1, 2, 4, 4), [1, 1, 1, 1]),
    "stack": _list,
    "trace": _one,
}
"""Of some operators that only the CPU casts."""
