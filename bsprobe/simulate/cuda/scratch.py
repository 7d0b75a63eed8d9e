"""Temporary memory of CUDA's kernels, which a trace cannot see: a rule for each operator.

Left out, because they are small or their size is not documented:

- The buffers of other reductions than sums and means (sums.py).
- The partial sums of LayerNorm's weight gradients from 65 537 rows on
  (`LaunchGammaBetaBackwardCUDAKernel` in newer versions of cuda/layer_norm_kernel.cu): at most
  8 MiB, 32 768 rows of 32 floats for weight and bias, and not linear in the batch.
- The reserve space and workspace of cuDNN's BatchNorm. Only the half-precision kernels for channels
  last use them; other tensors run as in the older function, which has neither (cuDNN API reference,
  `cudnnBatchNormalizationForwardTrainingEx`). The sizes are not published, and
  `cudnnGetBatchNormalizationTrainingExReserveSpaceSize` needs a handle and so a GPU.
- The workspace of cuDNN's LSTM (see `_lstm_reserve_bytes` in kernels.py).
- The items that attention_scratch.py lists.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from bsprobe.simulate.cuda.attention_scratch import ATTENTION
from bsprobe.simulate.cuda.autocast import Kernel
from bsprobe.simulate.cuda.conv_scratch import convolution, convolution_backward
from bsprobe.simulate.cuda.effects import (
    Effects,
    Inside,
    Rule,
    copies,
    tensors_of,
    while_held,
    with_inside,
)
from bsprobe.simulate.cuda.indexing import INDEXING
from bsprobe.simulate.cuda.limits import counted_elements
from bsprobe.simulate.cuda.losses import LOSSES, UNTIL
from bsprobe.simulate.cuda.sums import REDUCTIONS
from bsprobe.simulate.cuda.upsampling import UPSAMPLING
from bsprobe.simulate.versions import INSTALLED, Version, until

aten = torch.ops.aten


def _group_norm(args: tuple[Any, ...], out: Any) -> Effects:
    """Two (N, C) factors in fp32 (`GroupNormKernelImplInternal`, cuda/group_norm_kernel.cu)."""
    _, _, _, n, c, *_ = args
    yield from out
    yield Inside(sizes=(4 * n * c, 4 * n * c))


def _group_norm_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Sums and factors, (N, C) and (N, groups), in fp32 (`GroupNormBackwardKernelImplInternal`)."""
    n, c, groups = args[5], args[6], args[8]
    yield from (tensor for tensor in out if tensor is not None)
    by_channel, by_group = 4 * n * c, 4 * n * groups
    yield Inside(sizes=(by_channel, by_channel, by_group, by_group, by_channel))


def _layer_norm(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the input comes first (`layer_norm_cuda`, cuda/layer_norm_kernel.cu)."""
    return while_held(copies(args[:1], torch.contiguous_format), iter(out))


def _layer_norm_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the input comes first, one of the gradient last.

    Source: `layer_norm_backward_cuda` and `LayerNormBackwardKernelImpl`.
    """
    grad, x, *_ = args
    inside = with_inside(out, copies((grad,), torch.contiguous_format))
    return while_held(copies((x,), torch.contiguous_format), inside)


def _dropout_kernel(args: tuple[Any, ...], out: Any) -> Effects:
    """The mask, which is allocated first, and the output (`dropout_cuda`, cuda/Dropout.cu)."""
    del args
    output, mask = out
    yield mask
    yield output


def _matrix_product(*operands: int) -> Rule:
    """Make a rule for cuBLAS's workspace and dense copies of the operands that it cannot read.

    It can read matrices whose rows or columns are dense and do not overlap
    (`prepare_matrix_for_cublas` and `prepare_batch_matrix_for_cublas` in cuda/Blas.cpp).

    Args:
        operands: Indices of the matrices among the arguments.
    """

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        yield out
        unreadable = [args[index] for index in operands if not _is_readable_by_cublas(args[index])]
        yield Inside(sizes=tuple(map(_bytes_of, unreadable)), uses_cublas=True)

    return rule


def _is_readable_by_cublas(matrix: torch.Tensor) -> bool:
    rows, columns = matrix.shape[-2:]
    row_stride, column_stride = matrix.stride()[-2:]
    return (
        (row_stride == 1 and column_stride >= max(1, rows))
        or (column_stride == 1 and row_stride >= max(1, columns))
        or (matrix.is_contiguous() and 0 not in (row_stride, column_stride))
    )


def _softmax_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """The product of gradient and result, and dense copies (cuda/SoftMax.cu).

    Source: `softmax_backward_cuda_out` and `host_softmax_backward`.
    """
    grad, result, *_ = args
    yield out
    dense = copies((grad * result, result), torch.contiguous_format)
    yield Inside(sizes=(_bytes_of(grad), *dense))


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dense_inputs(*which: int) -> Rule:
    """Make a rule for kernels that call `contiguous()` on the arguments at these indices."""

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        inputs = (args[index] for index in which)
        return with_inside(out, copies(inputs, torch.contiguous_format))

    return rule


def _inputs_laid_out_as(like: int, *which: int) -> Rule:
    """Make a rule for kernels that copy some arguments to the layout of one argument.

    Args:
        like: Index of the argument whose layout is used.
        which: Indices of the arguments on which the kernel calls `contiguous()`.
    """

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        inputs = (args[index] for index in which)
        return with_inside(out, copies(inputs, suggest_memory_format(args[like])))

    return rule


def _lstm(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the input with the steps first (`_cudnn_rnn`, cudnn/RNN.cpp)."""
    yield from tensors_of(out)
    yield Inside(sizes=copies(_steps_first(args[10], args[0]), torch.contiguous_format))


def _lstm_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Dense copies of input and gradient, then of the input again.

    Source: `_cudnn_rnn_backward` (cudnn/RNN.cpp).
    """
    *of_data, of_weights = out
    inputs = _steps_first(args[14], *(each for each in (args[0], args[7]) if each is not None))
    yield from tensors_of(tuple(of_data))
    yield Inside(sizes=copies(inputs, torch.contiguous_format))
    yield from tensors_of(of_weights)
    yield Inside(sizes=copies(inputs[:1], torch.contiguous_format))


def _steps_first(batch_first: object, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(each.transpose(0, 1) if batch_first else each for each in tensors)


def effects(
    operator: Kernel, args: tuple[Any, ...], out: Any, version: Version = INSTALLED
) -> Effects:
    """List the allocations of a call on CUDA, in order: outputs and temporary memory.

    Args:
        operator: The operator of the call.
        args: Its positional arguments.
        out: Its result.
        version: The PyTorch version.
    """
    rule = _rules_of(version).get(operator)
    yield from tensors_of(out) if rule is None else rule(args, out)
    elements = counted_elements(operator, args, out)
    if elements is not None:
        yield Inside(elements=elements)


KERNELS: dict[Kernel, Rule] = {
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.native_dropout.default: _dropout_kernel,
    aten.mm.default: _matrix_product(0, 1),
    aten.addmm.default: _matrix_product(1, 2),
    aten.bmm.default: _matrix_product(0, 1),
    aten.baddbmm.default: _matrix_product(1, 2),
    aten._cudnn_rnn.default: _lstm,  # noqa: SLF001 - its name
    aten._cudnn_rnn_backward.default: _lstm_backward,  # noqa: SLF001 - its name
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    # ATen/native/cuda: AveragePool2d.cu, DilatedMaxPool2d.cu.
    aten.avg_pool2d.default: _inputs_laid_out_as(0, 0),
    aten.avg_pool2d_backward.default: _inputs_laid_out_as(1, 0, 1),
    aten.max_pool2d_with_indices.default: _inputs_laid_out_as(0, 0),
    aten.max_pool2d_with_indices_backward.default: _inputs_laid_out_as(1, 0, 1),
    # ATen/native/cuda: SoftMax.cu, NLLLoss2d.cu.
    aten._softmax.default: _dense_inputs(0),  # noqa: SLF001 - its name
    aten._softmax_backward_data.default: _softmax_backward,  # noqa: SLF001 - its name
    aten._log_softmax.default: _dense_inputs(0),  # noqa: SLF001 - its name
    aten._log_softmax_backward_data.default: _dense_inputs(0, 1),  # noqa: SLF001 - its name
    aten.nll_loss2d_forward.default: _dense_inputs(0, 1),
    aten.nll_loss2d_backward.default: _dense_inputs(2),
    **ATTENTION,
    **INDEXING,
    **LOSSES,
    **REDUCTIONS,
    **UPSAMPLING,
}


@functools.cache
def _rules_of(version: Version) -> Mapping[Kernel, Rule]:
    """The rules for a version of PyTorch."""
    return KERNELS | until(version, UNTIL)
