"""CUDA kernels that count elements in 32 bits, with versions and sources.

An entry is a check that raises, or a count that overflows so that the launch fails. Operators
without an entry count in 64 bits. Among them are bicubic and anti-aliased upsampling
(cuda/UpSampleBicubic2d.cu, and `upsample_gen2d_aa_out_cuda_template` in
cuda/UpSampleBilinear2d.cu); `upsample_linear1d` and `upsample_trilinear3d`, whose kernels run over
one image's positions and loop over images and channels; and `upsample_nearest2d` forward in any
layout (pytorch/pytorch#87901). Limits on one image's height times width are left out, because no
image reaches them.

Some checks refuse 2**31 - 1 elements, others allow that number. This difference is ignored. The
versions were read from the messages and the machine code in the libraries of PyTorch 2.6 to 2.15.
Files are in aten/src/ATen/native.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch._prims_common import suggest_memory_format
from torch.torch_version import TorchVersion

from bsprobe.simulate.cuda.autocast import Kernel

aten = torch.ops.aten

Call = tuple[tuple[Any, ...], torch.Tensor]
"""An operator's arguments and its first output."""
Counted = Callable[[Call], tuple[torch.Tensor, ...]]
Applies = Callable[[Call], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A kernel that counts the elements of some tensors in 32 bits.

    Attributes:
        counted: Selects the counted tensors from a call's arguments and output.
        until: The first PyTorch without the limit; None if the newest still has it.
        applies: Returns True for the calls that run the kernel.
    """

    counted: Counted
    until: str | None = None
    applies: Applies = lambda _: True


def counted_elements(
    operator: Kernel, args: tuple[Any, ...], out: Any, version: TorchVersion = torch.__version__
) -> int | None:
    """Number of elements that a call's kernel counts in 32 bits.

    Args:
        operator: The operator of the call.
        args: Its positional arguments.
        out: Its result: a tensor, or a tuple that begins with one.
        version: The PyTorch version.

    Returns:
        The element count of the largest counted tensor, or None without such a limit.
    """
    limit = LIMITS.get(operator)
    if limit is None or (limit.until is not None and version >= limit.until):
        return None
    call = (args, out if isinstance(out, torch.Tensor) else out[0])
    return max(each.numel() for each in limit.counted(call)) if limit.applies(call) else None


def arguments(*which: int) -> Counted:
    """Count the arguments at these indices; in a backward pass, argument 0 is the gradient."""
    return lambda call: tuple(call[0][index] for index in which)


def output(call: Call) -> tuple[torch.Tensor, ...]:
    """Count the output; in a backward pass, it is the gradient of the input."""
    return (call[1],)


def both(call: Call) -> tuple[torch.Tensor, ...]:
    """Count the first argument and the output."""
    return (call[0][0], call[1])


def is_channels_last(argument: int) -> Applies:
    """Match calls whose argument at this index is channels last."""
    return lambda call: suggest_memory_format(call[0][argument]) is torch.channels_last


def changes_size(call: Call) -> bool:
    """Match 2-d upsampling that changes the size; otherwise it copies and runs no kernel."""
    (x, *_), out = call
    return bool(x.shape != out.shape)


def resizes_channels_last(least_channels: int) -> Applies:
    """Match upsampling calls that run the kernel for channels last.

    Args:
        least_channels: Smallest number of channels for which PyTorch chooses that kernel.
    """

    def applies(call: Call) -> bool:
        (x, *_), out = call
        return (
            changes_size(call)
            and x.shape[1] >= least_channels
            and suggest_memory_format(x) is torch.channels_last
            and out.is_contiguous(memory_format=torch.channels_last)
        )

    return applies


# Of the 2-d kernels for nearest neighbours, only this one counts in 32 bits.
_NEAREST_BACKWARD: Final = Limit(counted=both, applies=resizes_channels_last(4))
_NEAREST_1D: Final = Limit(counted=output)
_NEAREST_1D_BACKWARD: Final = Limit(counted=both)
# Until pytorch/pytorch#144865.
_NEAREST_3D: Final = Limit(counted=output, until="2.7")
_NEAREST_3D_BACKWARD: Final = Limit(counted=both, until="2.7")

LIMITS: dict[Kernel, Limit] = {
    # cuda/UpSampleBilinear2d.cu. Forward: a check in the kernel for channels last. Backward, in any
    # layout: `num_kernels` is a product of ints, negative from 2**31 elements on, so that the
    # launch is invalid (beyond 2**32 it wraps to positive values). Both until
    # pytorch/pytorch#185788, in 2.14; since then a check refuses 2**41 elements.
    aten.upsample_bilinear2d.default: Limit(
        counted=both, applies=resizes_channels_last(16), until="2.14"
    ),
    aten.upsample_bilinear2d_backward.default: Limit(
        counted=arguments(0), applies=changes_size, until="2.14"
    ),
    # cuda/UpSampleNearest2d.cu: `upsample_nearest2d_backward_out_cuda_template`.
    aten.upsample_nearest2d_backward.default: _NEAREST_BACKWARD,
    aten._upsample_nearest_exact2d_backward.default: _NEAREST_BACKWARD,  # noqa: SLF001 - its name
    # cuda/UpSampleNearest1d.cu and cuda/UpSampleNearest3d.cu.
    aten.upsample_nearest1d.default: _NEAREST_1D,
    aten._upsample_nearest_exact1d.default: _NEAREST_1D,  # noqa: SLF001 - its name
    aten.upsample_nearest1d_backward.default: _NEAREST_1D_BACKWARD,
    aten._upsample_nearest_exact1d_backward.default: _NEAREST_1D_BACKWARD,  # noqa: SLF001 - its name
    aten.upsample_nearest3d.default: _NEAREST_3D,
    aten._upsample_nearest_exact3d.default: _NEAREST_3D,  # noqa: SLF001 - its name
    aten.upsample_nearest3d_backward.default: _NEAREST_3D_BACKWARD,
    aten._upsample_nearest_exact3d_backward.default: _NEAREST_3D_BACKWARD,  # noqa: SLF001 - its name
    # cuda/AveragePool2d.cu and cuda/DilatedMaxPool2d.cu: `count` goes through `safe_downcast`. The
    # backward kernels count in 64 bits.
    aten.avg_pool2d.default: Limit(counted=output),
    aten.max_pool2d_with_indices.default: Limit(counted=output, until="2.10"),
    # cuda/AdaptiveAveragePooling.cu: an assertion in the kernels for channels last. Pooling to one
    # position runs as a mean instead (`adaptive_avg_pool2d_symint`).
    aten._adaptive_avg_pool2d.default: Limit(  # noqa: SLF001 - its name
        counted=arguments(0), applies=is_channels_last(0)
    ),
    aten._adaptive_avg_pool2d_backward.default: Limit(  # noqa: SLF001 - its name
        counted=arguments(1), applies=is_channels_last(1)
    ),
    # cuda/ReflectionPad.cu and cuda/ReplicationPadding.cu: `canUse32BitIndexMath`.
    aten.reflection_pad2d.default: Limit(counted=arguments(0)),
    aten.reflection_pad2d_backward.default: Limit(counted=arguments(0, 1), until="2.11"),
    aten.replication_pad2d.default: Limit(counted=arguments(0)),
    aten.replication_pad2d_backward.default: Limit(counted=arguments(0, 1)),
}
