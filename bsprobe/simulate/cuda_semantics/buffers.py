"""What CUDA's kernels allocate inside, where no trace can see it: a rule for each operator."""

from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from bsprobe.simulate.cuda_semantics.autocast import Kernel
from bsprobe.simulate.cuda_semantics.convolution_buffers import convolution, convolution_backward
from bsprobe.simulate.cuda_semantics.effects import Effects, Inside, Rule, copies, tensors_of

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


def _dropout_kernel(args: tuple[Any, ...], out: Any) -> Effects:
    """The mask comes first (`dropout_cuda`, cuda/Dropout.cu)."""
    del args
    output, mask = out
    yield mask
    yield output


def _matrix_product(args: tuple[Any, ...], out: Any) -> Effects:
    del args
    yield out
    yield Inside(uses_cublas=True)


def _dense_inputs(*which: int) -> Rule:
    """Kernels that begin with `contiguous()` of some arguments."""

    def rule(args: tuple[Any, ...], out: Any) -> Effects:
        yield from (each for each in tensors_of(out))
        if sizes := copies((args[index] for index in which), torch.contiguous_format):
            yield Inside(sizes=sizes)

    return rule


def _upsample(args: tuple[Any, ...], out: Any) -> Effects:
    """32-bit indices over the output (cuda/UpSampleBilinear2d.cu and its siblings)."""
    del args
    yield out
    yield Inside(elements=out.numel())


def _upsample_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """Dense copies of both gradients, and the same 32-bit indices.

    Channels-last ones stay as they are where there are at least 4 channels
    (`upsample_bilinear2d_backward_out_cuda_template` and its nearest sibling).
    """
    grad, *_ = args
    is_channels_last = (
        grad.shape[1] >= 4  # noqa: PLR2004 - PyTorch's heuristic
        and suggest_memory_format(grad) is torch.channels_last
        and out.is_contiguous(memory_format=torch.channels_last)
    )
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    yield out
    yield Inside(sizes=copies((out, grad), layout), elements=grad.numel())


def _bicubic_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """A dense copy of the output's gradient (cuda/UpSampleBicubic2d.cu)."""
    yield out
    yield Inside(sizes=copies(args[:1], torch.contiguous_format), elements=args[0].numel())


def effects(operator: Kernel, args: tuple[Any, ...], out: Any) -> Effects:
    """What an operator allocates on CUDA, in order: its outputs, and what it takes inside."""
    rule = KERNELS.get(operator)
    return tensors_of(out) if rule is None else rule(args, out)


KERNELS: dict[Kernel, Rule] = {
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.native_dropout.default: _dropout_kernel,
    aten.mm.default: _matrix_product,
    aten.addmm.default: _matrix_product,
    aten.bmm.default: _matrix_product,
    aten.baddbmm.default: _matrix_product,
    # ATen/native/cuda: SoftMax.cu, NLLLoss2d.cu.
    aten._log_softmax.default: _dense_inputs(0),  # noqa: SLF001 - its name
    aten._log_softmax_backward_data.default: _dense_inputs(0, 1),  # noqa: SLF001 - its name
    aten.nll_loss2d_forward.default: _dense_inputs(0, 1),
    aten.nll_loss2d_backward.default: _dense_inputs(2),
    aten.upsample_bilinear2d.default: _upsample,
    aten.upsample_bilinear2d_backward.default: _upsample_backward,
    aten.upsample_nearest2d.default: _upsample,
    aten.upsample_nearest2d_backward.default: _upsample_backward,
    aten.upsample_bicubic2d.default: _upsample,
    aten.upsample_bicubic2d_backward.default: _bicubic_backward,
}
