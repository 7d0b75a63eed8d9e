"""Limits of CUDA's kernels that count elements in 32 bits: one table, with versions and sources.

An entry is a check that raises, or a count that overflows so that the launch fails. What has no
entry counts in 64 bits: bicubic and anti-aliased upsampling (cuda/UpSampleBicubic2d.cu, and
`upsample_gen2d_aa_out_cuda_template` in cuda/UpSampleBilinear2d.cu), `upsample_linear1d` and
`upsample_trilinear3d`, whose kernels run over one image's positions and loop over images and
channels; and `upsample_nearest2d` forward in any layout (pytorch/pytorch#87901). A limit of one
image's height times width, which other kernels have, is out of reach.

Some checks refuse 2**31 - 1 elements, some only more: one element, which is not told apart here.
The versions were read from the messages and the machine code in the libraries of PyTorch 2.6 to
2.15; files are those of aten/src/ATen/native.
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
        counted: The tensors among a call's arguments and output.
        until: The first PyTorch without the limit; None where the newest has it.
        applies: The calls that run the kernel at all.
    """

    counted: Counted
    until: str | None = None
    applies: Applies = lambda _: True


def counted_elements(
    operator: Kernel, args: tuple[Any, ...], out: Any, version: TorchVersion = torch.__version__
) -> int | None:
    """The most elements that a call's kernel counts in 32 bits; None where it has no such limit."""
    limit = LIMITS.get(operator)
    if limit is None or (limit.until is not None and version >= limit.until):
        return None
    call = (args, out if isinstance(out, torch.Tensor) else out[0])
    return max(each.numel() for each in limit.counted(call)) if limit.applies(call) else None


def arguments(*which: int) -> Counted:
    """The tensors at some places of the arguments; a backward pass begins with the gradient."""
    return lambda call: tuple(call[0][index] for index in which)


def output(call: Call) -> tuple[torch.Tensor, ...]:
    """The output, in a backward pass the gradient of the input."""
    return (call[1],)


def both(call: Call) -> tuple[torch.Tensor, ...]:
    """The first argument and the output."""
    return (call[0][0], call[1])


def is_channels_last(argument: int) -> Applies:
    """The calls whose argument at a place is laid out so."""
    return lambda call: suggest_memory_format(call[0][argument]) is torch.channels_last


def changes_size(call: Call) -> bool:
    """Upsampling in two dimensions copies where the size stays, and runs no kernel."""
    (x, *_), out = call
    return bool(x.shape != out.shape)


def resizes_channels_last(least_channels: int) -> Applies:
    """Upsampling by its kernel for channels last: in that layout, from some channels on."""

    def applies(call: Call) -> bool:
        (x, *_), out = call
        return (
            changes_size(call)
            and x.shape[1] >= least_channels
            and suggest_memory_format(x) is torch.channels_last
            and out.is_contiguous(memory_format=torch.channels_last)
        )

    return applies


# The kernels for nearest neighbours launch in 64 bits, all but this one.
_NEAREST_BACKWARD: Final = Limit(counted=both, applies=resizes_channels_last(4))
_NEAREST_1D: Final = Limit(counted=output)
_NEAREST_1D_BACKWARD: Final = Limit(counted=both)
# Until pytorch/pytorch#144865.
_NEAREST_3D: Final = Limit(counted=output, until="2.7")
_NEAREST_3D_BACKWARD: Final = Limit(counted=both, until="2.7")

LIMITS: dict[Kernel, Limit] = {
    # cuda/UpSampleBilinear2d.cu. Forward a check of its kernel for channels last. Backward, in any
    # layout, `num_kernels` multiplied ints: from 2**31 elements on it was negative and the launch
    # invalid (beyond 2**32 it comes round again). Both until pytorch/pytorch#185788, in 2.14; from
    # there on a check refuses 2**41 elements.
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
    # cuda/AveragePool2d.cu and cuda/DilatedMaxPool2d.cu: `count` goes through `safe_downcast`;
    # backward they count in 64 bits.
    aten.avg_pool2d.default: Limit(counted=output),
    aten.max_pool2d_with_indices.default: Limit(counted=output, until="2.10"),
    # cuda/AdaptiveAveragePooling.cu: an assertion of the kernels for channels last. Pooling to one
    # position is a mean, which is none of them (`adaptive_avg_pool2d_symint`).
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
